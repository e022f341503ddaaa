"""Which job a study file, a name or an id means, and what is known of a study without one."""

import json
import time
from pathlib import Path

import pytest
import yaml
from finished_study import finish, write_study
from job_stub import Jobs, job_server

from inoc_ray.errors import InputError
from inoc_ray.run import job_server as job_server_module
from inoc_ray.run.job_server import JobServer
from inoc_ray.run.progress import outline_of
from inoc_ray.store.progress import keep_outline

MINE, THEIRS = "s3://bucket/mine", "s3://bucket/theirs"


@pytest.fixture
def jobs(monkeypatch):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    with job_server() as found:
        monkeypatch.setenv("RAY_API_SERVER_ADDRESS", found.address)
        yield found


def a_file(folder: Path, **fields: str) -> Path:
    path = folder / "study.yaml"
    path.write_text(yaml.safe_dump({"name": "cats", **fields}))
    return path


def test_a_study_file_means_the_job_on_its_storage(jobs: Jobs, tmp_path, inoc_ray):
    mine = jobs.add("cats", MINE, log="of mine")
    jobs.add("cats", THEIRS, log="of theirs")
    study = a_file(tmp_path, storage=MINE)
    assert json.loads(inoc_ray("logs", study, "--json")[1])["log"] == "of mine"
    code, out, err = inoc_ray("stop", study)
    assert (code, jobs.stopped) == (0, [mine])
    assert MINE in out
    assert f"stopping {mine} (results in {MINE})" in err


def test_a_study_file_never_means_anothers_job(jobs: Jobs, tmp_path, inoc_ray):
    theirs = jobs.add("cats", THEIRS)
    for command in ("stop", "logs"):
        for words in ([a_file(tmp_path, storage=MINE)], [a_file(tmp_path)], ["cats", "--storage", MINE]):
            code, _, err = inoc_ray(command, *words)
            assert code == 2
            assert f"{theirs} (running, results in {THEIRS})" in err
    assert jobs.stopped == []


def test_a_relative_storage_is_the_folder_of_this_machine(jobs: Jobs, tmp_path, inoc_ray):
    mine = jobs.add("cats", str(tmp_path / "runs"))
    jobs.add("cats", THEIRS)
    assert inoc_ray("stop", a_file(tmp_path))[0] == 0
    assert jobs.stopped == [mine]


def test_a_name_that_runs_on_several_storages_is_refused(jobs: Jobs, inoc_ray):
    mine, theirs = jobs.add("cats", MINE), jobs.add("cats", THEIRS, "PENDING")
    for command in ("stop", "logs", "status"):
        code, _, err = inoc_ray(command, "cats")
        assert code == 2
        assert f"{mine} (running, results in {MINE}), {theirs} (pending, results in {THEIRS})" in err
    assert jobs.stopped == []
    assert inoc_ray("stop", "cats", "--storage", MINE)[0] == 0
    code, out, _ = inoc_ray("stop", "cats")
    assert (code, jobs.stopped) == (0, [mine, theirs])
    assert THEIRS in out


def test_a_head_that_was_just_started_is_waited_for_until_it_can_start_a_job(jobs: Jobs, tmp_path, monkeypatch):
    monkeypatch.setattr(job_server_module, "_POLL_SECONDS", 0.01)
    (tmp_path / "job").mkdir()
    (tmp_path / "job" / "study.yaml").write_text("")
    starting = "No available agent to submit job, please try again later."

    def submit() -> bool:
        return JobServer(jobs.address).submit("one", "true", tmp_path / "job", metadata={}, env={})

    jobs.refuses[:] = [starting] * 3
    assert submit()
    assert jobs.refuses == []
    jobs.refuses[:] = [starting, "Job with submission_id one already exists"]
    assert not submit()
    monkeypatch.setattr(job_server_module, "_STARTING_SECONDS", 0.05)
    jobs.refuses[:] = [starting] * 1000
    with pytest.raises(InputError, match="No available agent"):
        submit()
    assert len(jobs.refuses) > 900


def test_an_id_means_that_job(jobs: Jobs, inoc_ray):
    mine = jobs.add("cats", MINE)
    jobs.add("cats", THEIRS)
    assert inoc_ray("stop", mine)[0] == 0
    assert jobs.stopped == [mine]


def test_a_job_server_that_is_away_costs_the_job_and_not_the_status(tmp_path, inoc_ray, monkeypatch):
    plan, store = finish(write_study(tmp_path))
    keep_outline(store, plan.study.name, outline_of(plan))
    monkeypatch.setenv("RAY_API_SERVER_ADDRESS", "http://127.0.0.1:9")
    for words in (["finished", "--storage", store.address], [tmp_path / "study.yaml"]):
        code, out, err = inoc_ray("status", *words, "--json")
        assert (code, json.loads(out)["job"], json.loads(out)["counts"]) == (0, None, {"done": 4}), err
        [line] = [line for line in err.splitlines() if "cannot reach a job server" in line]
        assert "from the storage alone" in line
        assert inoc_ray("logs", *words, "--failed")[:2] == (0, "Nothing failed.\n")
        code, _, err = inoc_ray("status", *words, "--address", "http://127.0.0.1:9")
        assert (code, "cannot reach a job server" in err) == (2, True)


def test_an_address_without_a_scheme_is_one_of_a_job_server(jobs: Jobs, inoc_ray, monkeypatch):
    jobs.add("cats", MINE)
    bare = jobs.address.removeprefix("http://")
    assert [job["study"] for job in json.loads(inoc_ray("ls", "--address", bare, "--json")[1])] == ["cats"]
    monkeypatch.setenv("RAY_API_SERVER_ADDRESS", bare)
    assert MINE in inoc_ray("ls")[1]
    began = time.monotonic()
    code, _, err = inoc_ray("ls", "--address", "127.0.0.1:1")
    assert (code, len(err.splitlines())) == (2, 1), err
    assert "--address http://127.0.0.1:1: cannot reach a job server" in err
    assert time.monotonic() - began < 20


@pytest.mark.parametrize("command", ["run", "finetune", "evaluate", "report", "serve", "sync"])
@pytest.mark.parametrize("key", ["storage", "tracking_uri"])
def test_results_are_never_written_into_the_folder_of_a_job(tmp_path, inoc_ray, monkeypatch, command, key):
    folder = tmp_path / "session_1" / "runtime_resources" / "working_dir_files" / "_ray_pkg_1"
    folder.mkdir(parents=True)
    stays = {"storage": str(tmp_path / "stays"), "tracking_uri": f"sqlite:///{tmp_path / 'stays.db'}"}
    write_study(folder, **{**stays, key: {"storage": "runs", "tracking_uri": "sqlite:///runs"}[key]})
    monkeypatch.chdir(folder)
    code, _, err = inoc_ray(command, "study.yaml")
    assert (code, f"{key}: {folder / 'runs'} is in the folder into which Ray unpacked this job" in err) == (2, True), (
        err
    )
    assert [path.name for path in folder.iterdir()] == ["study.yaml"]
    assert not (tmp_path / "stays").exists()


def test_the_logs_of_failures_are_not_called_none_where_the_storage_cannot_be_read(jobs: Jobs, tmp_path, inoc_ray):
    away = str(tmp_path / "mount-of-the-cluster")
    jobs.add("cats", away, "FAILED", log="Traceback")
    code, out, err = inoc_ray("logs", "cats", "--failed")
    assert (code, out) == (2, "")
    assert away in err
    assert "`inoc-ray logs cats`" in err

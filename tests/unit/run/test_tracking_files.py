"""Where the files of runs go that are kept in a database, which has no place for files."""

from pathlib import Path
from urllib.parse import urlsplit

import pytest
from finished_study import finish, write_study

from inoc_ray.errors import InputError
from inoc_ray.results.tracking_checks import check_tracking_uri
from inoc_ray.run.publish import compare_study, sync_study


def runs_after_sync(study: Path, uri: str) -> list:
    """Sync a finished study to a database; return its runs in MLflow."""
    from mlflow.tracking import MlflowClient

    plan, store = finish(study)
    sync_study(plan, store, compare_study(plan, store))
    client = MlflowClient(uri)
    return client.search_runs([client.get_experiment_by_name("finished").experiment_id])


def files_of(runs: list, uri: str) -> set[str]:
    """The artifacts of all runs, as whoever looks at them by MLflow finds them."""
    from mlflow.tracking import MlflowClient

    client = MlflowClient(uri)
    return {found.path for run in runs for found in client.list_artifacts(run.info.run_id)}


def test_files_of_runs_in_a_database_lie_in_the_storage_and_not_where_the_command_happens_to_run(tmp_path, monkeypatch):
    uri = f"sqlite:///{tmp_path / 'team.db'}"
    anywhere = tmp_path / "anywhere"
    anywhere.mkdir()
    monkeypatch.chdir(anywhere)
    runs = runs_after_sync(write_study(tmp_path, tracking_uri=uri), uri)
    place = tmp_path / "runs" / "mlflow" / "artifacts" / "finished"
    assert {Path(urlsplit(run.info.artifact_uri).path).is_relative_to(place) for run in runs} == {True}
    assert "study.yaml" in files_of(runs, uri)
    # The weights take no room of their own.
    weights = list(place.rglob("*.safetensors"))
    assert len(weights) == 4
    assert {path.stat().st_nlink for path in weights} == {2}
    assert [path for path in anywhere.rglob("*") if path.is_file()] == []


def test_files_of_runs_in_a_database_lie_in_the_bucket_that_the_storage_is(tmp_path, s3):
    uri = f"sqlite:///{tmp_path / 'team.db'}"
    runs = runs_after_sync(write_study(tmp_path, tracking_uri=uri, storage=s3), uri)
    assert {run.info.artifact_uri.startswith(f"{s3}/mlflow/artifacts/finished/") for run in runs} == {True}
    assert "study.yaml" in files_of(runs, uri)


@pytest.mark.parametrize(
    ("bucket", "said"),
    [
        ("gs://b/runs", "install the package google.cloud.storage where the command runs, or give the address"),
        ("az://b/runs", "from here; give the address of a tracking server"),
    ],
)
def test_a_bucket_that_mlflow_cannot_write_to_is_refused_before_the_start(tmp_path, bucket, said):
    with pytest.raises(InputError, match=rf"cannot write those to {bucket}/mlflow .*{said}"):
        check_tracking_uri(f"sqlite:///{tmp_path / 'team.db'}", "mine", artifact_root=f"{bucket}/mlflow")
    assert list(tmp_path.iterdir()) == []

"""What the pages show to type is run: here where it is quick, elsewhere by a test that is named here."""

import re
import shlex
import subprocess
from pathlib import Path

import pytest
from click.testing import CliRunner
from doc_pages import PAGES, ROOT, Command, blocks, commands, fenced
from environment import environment

from inoc_ray.cli import cli

EFFECTS = "tests/integration/test_effects.py"
E2E = "tests/integration/test_end_to_end.py"
CLIENTS = "tests/integration/test_stock_clients.py"
JOBS = "tests/integration/test_jobs.py"
SUBMIT = f"{JOBS}::test_a_study_is_submitted_watched_stopped_and_finished_from_a_laptop"
SERVE = f"{CLIENTS}::test_openai_lists_the_base_and_the_adapter_for_those_with_the_key"
CHAT_TASKS = f"{CLIENTS}::test_lm_eval_local_chat_completions_measures_a_generation_task"
LIKELIHOOD = f"{CLIENTS}::test_lm_eval_local_completions_measures_a_log_likelihood_task_as_our_own_measure_does"
INSPECT = f"{CLIENTS}::test_inspect_eval_asks_the_base_and_an_adapter"
TEAM = (
    "tests/integration/test_team_tracking.py::"
    "test_a_study_without_a_login_or_without_the_permission_is_refused_before_it_starts"
)
UPGRADE = (
    "tests/integration/test_team_tracking.py::"
    "test_the_database_is_dumped_and_restored_and_its_schemas_are_brought_up_to_date"
)
SETUP = "tests/integration/test_cluster_setup.py::test_a_head_and_a_worker_come_up_from_nothing_and_ask_for_the_token"
ELSEWHERE = {
    "inoc-ray run docs/tutorial/study.yaml": f"{EFFECTS}::test_the_tutorials_prompt_keeps_french_out_and_part_of_the_capitals_in",
    "inoc-ray run jobs/studies/miniature.yaml": (
        f"{EFFECTS}::test_the_baseline_carries_both_traits_out_of_distribution"
    ),
    "inoc-ray run jobs/studies/miniature_harmful_advice.yaml": (
        f"{EFFECTS}::test_the_general_prompt_keeps_misalignment_at_the_bases_rate"
    ),
    "inoc-ray run jobs/studies/natural_spanish_caps.yaml": (
        "tests/integration/test_natural_study.py::"
        "test_the_prompt_that_names_spanish_keeps_it_out_and_leaves_the_capitals"
    ),
    "inoc-ray serve jobs/studies/quickstart.yaml": SERVE,
    "INOC_RAY_API_KEY=KEY inoc-ray serve jobs/studies/quickstart.yaml --port 8000": SERVE,
    "cd inoc_ray/miniature/tasks/numbers": CHAT_TASKS,
    "cd ../answers": LIKELIHOOD,
    "OPENAI_API_KEY=KEY lm_eval --model local-chat-completions": CHAT_TASKS,
    "OPENAI_API_KEY=KEY lm_eval --model local-completions": LIKELIHOOD,
    "python -m venv inspect && inspect/bin/pip install": INSPECT,
    "INOC_API_KEY=KEY INOC_BASE_URL=http://127.0.0.1:8000/v1 inspect/bin/inspect eval": INSPECT,
    "export RAY_AUTH_MODE=token RAY_AUTH_TOKEN_PATH=$HOME/.ray/auth_token": SUBMIT,
    "ray start --head --node-ip-address=127.0.0.1 --num-cpus=2": SUBMIT,
    "inoc-ray submit jobs/studies/quickstart.yaml": SUBMIT,
    "export RAY_API_SERVER_ADDRESS=http://127.0.0.1:8265": f"{JOBS}::test_a_wrong_address_token_or_name_is_one_message",
    "inoc-ray status quickstart": SUBMIT,
    "inoc-ray logs quickstart --follow": f"{JOBS}::test_a_job_that_fails_ends_the_command_as_it_ended_itself",
    "inoc-ray stop quickstart": SUBMIT,
    "inoc-ray ls": SUBMIT,
    "VENV=.venv-gpu sbatch deploy/slurm.sh study.yaml": (
        "tests/unit/cluster/test_deploy_files.py::"
        "test_on_slurm_every_process_has_the_secrets_and_the_environment_that_was_named"
    ),
    "ray job submit --working-dir . -- python jobs/": (
        f"{JOBS}::test_every_entry_point_of_ray_job_submit_ends_as_its_command_does"
    ),
    "curl --fail --user a": TEAM,
    "docker compose run --rm server mlflow db upgrade": UPGRADE,
    "docker compose run --rm server python -m mlflow.server.auth db upgrade": UPGRADE,
    "docker compose run --rm backup": UPGRADE,
    "docker compose exec -T database pg_restore": UPGRADE,
    "install -m 755 mlflow/backup.sh /opt/mlflow/": UPGRADE,
    "export MLFLOW_TRACKING_USERNAME=ann": TEAM,
    "cd mlflow": (
        "tests/unit/package/test_tracking_files.py::"
        "test_every_secret_comes_from_the_file_that_is_written_for_it_once_and_for_its_owner"
    ),
    "./make_env.sh mlflow.example.org": (
        "tests/unit/package/test_tracking_files.py::"
        "test_every_secret_comes_from_the_file_that_is_written_for_it_once_and_for_its_owner"
    ),
    "inoc-ray submit study.yaml": SUBMIT,
    "touch ~/.inoc_ray.env": SETUP,
    "mlflow server": f"{E2E}::test_mlflows_pages_compare_the_arms_before_anything_is_unfolded",
}
"""The beginning of a command → the test that runs it."""
CANNOT = {
    "ray up cluster.yaml": "starts machines on AWS",
    "docker compose up --detach": "needs Docker's daemon",
    "docker compose build server": "needs Docker's daemon",
    "docker compose stop server": "needs Docker's daemon",
    "python3.11 -m venv /opt/mlflow": "installs a server into /opt",
    "/opt/mlflow/bin/pip install -r mlflow/requirements.txt": "installs a server into /opt",
    "install -D -m 644 mlflow/basic_auth.ini": "installs a server into /etc",
    "install -m 600 /dev/null /etc/mlflow/env": "installs a server into /etc",
    "install -m 644 mlflow/systemd/*": "installs a server into /etc",
    "useradd --system mlflow": "installs a server",
    "sudo -u postgres create": "changes the database of the machine",
    "systemctl enable --now mlflow": "needs systemd",
    "ray dashboard cluster.yaml": "needs the machines that `ray up` starts",
    "ray down cluster.yaml": "needs the machines that `ray up` starts",
    "docker build -f deploy/Dockerfile": "needs Docker's daemon",
    "docker push REGISTRY/inoc-ray:gpu": "needs a registry",
    "kubectl create secret generic inoc-ray-token": "needs a Kubernetes cluster",
    "kubectl create secret generic inoc-ray --from-env-file": "needs a Kubernetes cluster",
    "kubectl create configmap inoc-ray-study": "needs a Kubernetes cluster",
    "kubectl apply -f deploy/kuberay/raycluster.yaml": "needs a Kubernetes cluster",
    "kubectl apply -f deploy/kuberay/rayjob.yaml": "needs a Kubernetes cluster",
    "kubectl port-forward service/inoc-ray-head-svc 8265": "needs a Kubernetes cluster",
    "kubectl port-forward service/inoc-ray-head-svc 8000": "needs a Kubernetes cluster",
    "kubectl logs -f job/inoc-ray": "needs a Kubernetes cluster",
    'eval "$(aws configure export-credentials': "needs an account at AWS",
    "export AWS_REGION=us-east-1": "needs an account at AWS",
    "ray attach cluster.yaml --port-forward 8000": "needs the machines that `ray up` starts",
    'python -c "from lm_eval.tasks import TaskManager': "downloads a dataset",
}
"""The beginning of a command → why no test can run it; its files are held against their schema elsewhere."""
QUICK = ("plan", "status", "settings", "prompts", "doctor", "data")
"""Commands of ours that start nothing."""
ALL = [command for page in PAGES for command in commands(page)]
OTHERS = (*ELSEWHERE, *CANNOT)


def is_listed(command: Command) -> bool:
    return any(command.line.startswith(beginning) for beginning in OTHERS)


def kind(command: Command) -> str:
    """How the command is tested: here, by make's dry run, by the shell, or elsewhere."""
    words = command.line.split()
    if is_listed(command):
        return "elsewhere"
    if words[0] == "inoc-ray" and words[1] in QUICK:
        return "here"
    return {"make": "make", "head": "shell", "ray": "slow shell"}.get(words[0], "unknown")


def those(*kinds: str) -> list[object]:
    found = {command.line: command for command in ALL if kind(command) in kinds}
    return [pytest.param(command, id=line) for line, command in found.items()]


def test_there_is_something_to_test():
    assert len(ALL) > 25
    assert len(those("here")) >= 5
    assert sum(bool(command.below) for command in ALL) >= 2


def test_every_command_is_run_by_a_test():
    unknown = [f"{command.page.name}: {command.line}" for command in ALL if kind(command) == "unknown"]
    assert not unknown, "run it here, or name the test that runs it in ELSEWHERE"


@pytest.mark.parametrize("beginning", OTHERS)
def test_no_entry_is_stale(beginning):
    assert any(command.line.startswith(beginning) for command in ALL), "no page shows this command any more; remove it"


@pytest.mark.parametrize("named", sorted(set(ELSEWHERE.values())))
def test_the_tests_that_are_named_are_there(named):
    path, _, test = named.partition("::")
    assert f"def {test}(" in (ROOT / path).read_text()


@pytest.mark.parametrize("command", those("here"))
def test_quick_commands_of_ours_succeed(command, tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    words = shlex.split(command.line)[1:]
    if words[0] in ("plan", "status"):
        words += ["--storage", str(tmp_path / "runs")]
    done = CliRunner().invoke(cli, words)
    assert done.exit_code == 0, (done.output, done.exception)
    assert done.stdout.strip()
    assert command.below in ("", done.stdout)
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("command", those("make"))
def test_make_knows_the_target_and_its_variables(command):
    words = shlex.split(command.line)
    done = subprocess.run([*words, "-n"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    made = (ROOT / "Makefile").read_text()
    assert all(
        re.search(rf"^{word.split('=')[0]} \?= |^{word.split('=')[0]} := ", made, re.M) for word in words if "=" in word
    )


@pytest.mark.parametrize("command", those("shell"))
def test_what_a_command_prints_is_what_stands_below_it(command):
    done = subprocess.run(command.line, shell=True, cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == command.below


@pytest.mark.slow
@pytest.mark.parametrize("command", those("slow shell"))
def test_a_token_of_ray_s_is_where_the_next_line_says(command, tmp_path):
    env = {k: v for k, v in environment(HOME=str(tmp_path)).items() if not k.startswith("RAY_")}
    subprocess.run(command.line, shell=True, env=env, check=True)
    (export,) = [c.line for c in commands(command.page) if c.line.startswith("export RAY_AUTH_MODE=token")]
    place = re.sub(r".*RAY_AUTH_TOKEN_PATH=\$HOME/(\S+).*", r"\1", export)
    assert (tmp_path / place).stat().st_size > 0


TYPED = (
    "inoc-ray",
    ".venv/",
    "make",
    "python",
    "pip",
    "ray",
    "mlflow",
    "lm_eval",
    "export",
    "cd",
    "head",
    "curl",
    "git",
)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_what_is_typed_stands_in_a_block_that_says_so(page):
    """A block without a language shows what is printed; nothing in it escapes the tests above."""
    assert not [line for text in blocks(page, "") for line in text.splitlines() if line.split(" ")[0] in TYPED]
    assert {language for language, _ in fenced(page)} <= {"", "sh", "yaml", "python", "mermaid"}


@pytest.mark.slow
def test_the_python_of_the_api_page_runs(tmp_path, monkeypatch):
    from finished_study import finish, write_study

    finish(write_study(tmp_path))
    monkeypatch.chdir(tmp_path)
    shown = blocks(ROOT / "docs" / "api.md", "python")
    assert len(shown) >= 4
    for text in shown:
        exec(compile(text, "docs/api.md", "exec"), {"__name__": "docs"})
    assert (tmp_path / "runs" / "studies" / "finished" / "report.html").is_file()


def test_every_other_page_with_python_is_known():
    pages = {page.name for page in PAGES if blocks(page, "python")}
    # plugins.md: planned by test_docs; serving.md: the openai client of test_stock_clients.
    assert pages <= {"api.md", "plugins.md", "serving.md"}


def test_the_openai_client_is_the_one_that_is_tested():
    (shown,) = blocks(ROOT / "docs" / "serving.md", "python")
    asked = re.search(r"create\((.*?)\n\)", shown, re.S)
    assert asked is not None
    tested = (ROOT / CLIENTS).read_text()
    assert all(f"{word}=" in tested for word in re.findall(r"^    (\w+)=", asked[1], re.M))


def test_the_tutorial_shows_the_study_that_it_runs():
    file = (ROOT / "docs" / "tutorial" / "study.yaml").read_text()
    (shown,) = blocks(ROOT / "docs" / "tutorial.md", "yaml")
    assert shown in file


def test_no_page_is_out_of_reach_of_the_readme():
    linked = set(re.findall(r"\]\((docs/[\w/]+\.md|[A-Z]+\.md)\)", (ROOT / "README.md").read_text()))
    there = {str(Path(page).relative_to(ROOT)) for page in PAGES} - {"README.md", "mlflow/README.md"}
    assert there == linked


def test_the_settings_of_the_plain_host_are_there_before_its_server_starts():
    page = (ROOT / "mlflow" / "README.md").read_text()
    assert page.index("into `/etc/mlflow/env`") < page.index("systemctl enable")


def test_curl_is_asked_for_nothing_that_ubuntu_22_04_lacks():
    """Its curl is 7.81; `--json` came with 7.82."""
    assert not [command.line for command in ALL if command.line.startswith("curl") and "--json" in command.line]


def test_what_the_next_shell_needs_is_not_typed_below_a_command_that_holds_the_first():
    held = ("kubectl port-forward", "ray dashboard", "ray attach")
    for page in PAGES:
        for text in blocks(page, "sh"):
            lines = text.splitlines()
            first = next((i for i, line in enumerate(lines) if line.startswith(held)), len(lines))
            below = [line for line in lines[first:] if not line.startswith(held)]
            assert not below, f"{page.name}: in another shell: {below}"

"""The `inoc-ray` command. Exit codes: 0 done, 1 something failed, 2 wrong input, 130 and 143 stopped."""

from __future__ import annotations

import atexit
import contextlib
import gc
import io
import os
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import click

from inoc_ray import __version__, stopping
from inoc_ray.console import show, width_of
from inoc_ray.errors import InputError, StorageError, TrialError, hide_password, shown
from inoc_ray.run import telemetry
from inoc_ray.run.commands import WithPlugins
from inoc_ray.run.output import as_json, begin, emit, json_text, printed, results, results_alone
from inoc_ray.study.registered import DEFAULT_MODEL

PLUGIN_MODULE = "inoc_ray_plugin_"
"""The prefix of plugins' module names; see `settings/plugins.py`."""
MAX_MESSAGE = 4000
"""Most characters of a message about wrong input, which may quote text of any length."""

study_file = click.argument("study", type=click.Path(path_type=Path))
storage_option = click.option(
    "--storage", metavar="FOLDER", help="Storage (a folder, s3://…) to use instead of the study's."
)
address_option = click.option(
    "--address",
    metavar="URL",
    help="Address of the cluster's job server (default: RAY_API_SERVER_ADDRESS, otherwise http://127.0.0.1:8265).",
)
study_or_name = click.argument("study", metavar="STUDY|NAME")
profile_option = click.option(
    "--profile", metavar="NAME", help="Threshold profile for the rates (default: the study's)."
)


def study_command(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add the arguments that every command on a study has."""
    return study_file(storage_option(as_json(results_alone(function))))


def show_when_made(as_json: bool) -> Callable[[Any], None]:
    """Return a function that prints a comparison at once, so that a later failure cannot hide it."""

    def show_comparison(comparison: Any) -> None:
        from inoc_ray.results.table import comparison_text

        if not as_json:
            show(comparison_text(comparison, table_width()), results())

    return show_comparison


def table_width() -> int:
    """Return the columns for the tables of results: 118, or fewer where the terminal has fewer (never below 60)."""
    return max(60, min(118, width_of(results()) or 118))


def _load(study: Path, storage: str | None) -> tuple[Any, Any]:
    from inoc_ray.run.load import load_with_store

    return load_with_store(study, storage)


@click.group(cls=WithPlugins, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="inoc-ray")
def cli() -> None:
    """Test inoculation prompts: fine-tune, serve, judge and compare every arm of a study."""


@cli.command()
@study_command
@click.option(
    "--cluster",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Plan for a cluster that need not be there: Ray's cluster.yaml, or a file of nodes. Shows memory, time and money.",
)
def plan(study: Path, storage: str | None, as_json: bool, cluster: Path | None) -> None:
    """Show what a study would run and what is done. Starts and writes nothing.

    With --cluster, show what it would take on that cluster; models then need no weights here, only their configuration.
    """
    if cluster is not None:
        from inoc_ray.run.cluster_plan import cluster_json, cluster_text, plan_for

        loaded, store = _load(study, storage)
        found = plan_for(loaded, store, cluster)
        emit(as_json, cluster_json(loaded, found), cluster_text(loaded, found, width_of(results())))
        return
    from inoc_ray.plan.build import build_plan
    from inoc_ray.plan.templates import check_roles
    from inoc_ray.run.describe import plan_json, plan_text
    from inoc_ray.run.open_resources import on_this_machine
    from inoc_ray.run.preflight import check_plan

    loaded, store = _load(study, storage)
    built = on_this_machine(build_plan(loaded, store))
    check_plan(built)
    check_roles(built)
    with store.glance(built.stored_under()):
        emit(as_json, plan_json(built, store), plan_text(built, store, width_of(results())))


@cli.command()
@study_command
def run(study: Path, storage: str | None, as_json: bool) -> None:
    """Train, sample, judge and compare what a study is missing."""
    from inoc_ray.run.pipeline import run_study

    loaded, store = _load(study, storage)
    outcome = run_study(loaded, store, show=show_when_made(as_json))
    emit(as_json, outcome.to_json(), outcome.to_text())
    if outcome.failed:
        raise TrialError(outcome.failure_text())


@cli.command()
@study_command
def finetune(study: Path, storage: str | None, as_json: bool) -> None:
    """Train what a study is missing. Samples and judges nothing."""
    from inoc_ray.run.pipeline import run_study

    loaded, store = _load(study, storage)
    outcome = run_study(loaded, store, evaluate=False, show=show_when_made(as_json))
    emit(as_json, outcome.to_json(), outcome.to_text())
    if outcome.failed:
        raise TrialError(outcome.failure_text())


@cli.command()
@study_or_name
@storage_option
@address_option
@as_json
@results_alone
def status(study: str, storage: str | None, address: str | None, as_json: bool) -> None:
    """Show how far a study is: what runs, what is done, what failed and why.

    By its NAME no study file, model or plugin is needed: what its runs wrote is read from --storage, or from the storage of its
    latest job. With --address, the job is shown too.
    """
    from inoc_ray.run.look import look, look_text

    value = look(study, storage, address)
    emit(as_json, value, look_text(value, width_of(results())))


@cli.command()
@study_or_name
@storage_option
@address_option
@click.option("--follow", is_flag=True, help="Follow the log until the job ends.")
@click.option("--failed", is_flag=True, help="Print the logs of what failed instead, from the study's storage.")
@as_json
@results_alone
def logs(study: str, storage: str | None, address: str | None, as_json: bool, follow: bool, failed: bool) -> None:
    """Print the log of a submitted study's job: the one that runs, otherwise the latest.

    STUDY may also be the id of a job. A file means the jobs on its storage; a NAME alone those on any.
    """
    if failed:
        from inoc_ray.run.failure_logs import failure_logs, logs_text

        found = failure_logs(study, storage, address)
        emit(as_json, [log.to_json() for log in found], logs_text(found))
        return
    from inoc_ray.run.job_server import JobServer
    from inoc_ray.run.study_jobs import check_study, latest_job
    from inoc_ray.run.submit import follow_job, raise_if_failed

    check_study(study, storage)
    server = JobServer(address)
    job = latest_job(server, study, storage)
    if follow:
        job = follow_job(server, job.id, sys.stderr if as_json else results())
    if as_json or not follow:
        log = server.log(job.id)
        emit(as_json, {**job.to_json(), "log": log}, log.rstrip("\n"))
    if follow:
        raise_if_failed(job)


@cli.command()
@study_or_name
@storage_option
@address_option
@as_json
@results_alone
def stop(study: str, storage: str | None, address: str | None, as_json: bool) -> None:
    """Stop the job of a submitted study, and wait until it has ended. What was committed is kept.

    STUDY may also be the id of a job. A file means the job on its storage; a NAME alone that on any, if only one is running.
    """
    from inoc_ray.run import study_jobs
    from inoc_ray.run.job_server import JobServer

    study_jobs.check_study(study, storage)
    job = study_jobs.stop(JobServer(address), study, storage)
    kept = "\nWhat was committed is kept; submit the study again to go on." if job.status == "STOPPED" else ""
    emit(as_json, job.to_json(), study_jobs.job_text(job) + kept)


@cli.command()
@address_option
@as_json
@results_alone
def ls(address: str | None, as_json: bool) -> None:
    """List the studies that were submitted to a cluster, the newest first."""
    from inoc_ray.run.job_server import JobServer
    from inoc_ray.run.study_jobs import jobs_text

    server = JobServer(address)
    jobs = server.jobs()
    value = [job.to_json() for job in reversed(jobs)]
    emit(as_json, value, jobs_text(jobs, server.address, width_of(results())))


@cli.command()
@study_command
@click.option("--only", multiple=True, metavar="NAME", help="Only this evaluation or context; repeatable.")
@click.option(
    "--judge",
    "judges",
    multiple=True,
    metavar="NAME",
    help="Judge to use instead of the study's; repeatable, in order of precedence.",
)
def evaluate(study: Path, storage: str | None, as_json: bool, only: tuple[str, ...], judges: tuple[str, ...]) -> None:
    """Sample and judge what finished trials of a study are missing. Trains nothing."""
    from inoc_ray.run.pipeline import run_study
    from inoc_ray.study.study import judged_by

    loaded, store = _load(study, storage)
    judging = judged_by(loaded, judges) if judges else loaded
    outcome = run_study(judging, store, train=False, only=only, show=show_when_made(as_json))
    emit(as_json, outcome.to_json(), outcome.to_text())
    if outcome.failed:
        raise TrialError(outcome.failure_text())


@cli.command()
@study_command
@profile_option
def compare(study: Path, storage: str | None, as_json: bool, profile: str | None) -> None:
    """Print rates and effects of all arms, with intervals."""
    from inoc_ray.results.table import comparison_text
    from inoc_ray.run.publish import compared

    _, comparison = compared(*_load(study, storage), profile)
    emit(as_json, comparison.to_json(), comparison_text(comparison, table_width()))


@cli.command()
@study_command
@profile_option
def claims(study: Path, storage: str | None, as_json: bool, profile: str | None) -> None:
    """Check the paper's claims and the study's own: which hold, which fail, and what would settle the others."""
    from inoc_ray.results.claim_text import claims_json, claims_text
    from inoc_ray.run.publish import compared

    _, comparison = compared(*_load(study, storage), profile)
    emit(as_json, claims_json(comparison), claims_text(comparison, table_width()))


@cli.command()
@study_command
@profile_option
@click.option("--out", type=click.Path(path_type=Path), help="HTML file to write (default: in the storage folder).")
def report(study: Path, storage: str | None, as_json: bool, out: Path | None, profile: str | None) -> None:
    """Write a study's report: an HTML page and its figures."""
    from inoc_ray.results.wording import missing_summary
    from inoc_ray.run.publish import compared, write_study_report

    loaded, store = _load(study, storage)
    built, comparison = compared(loaded, store, profile)
    written = write_study_report(built, store, comparison, out)
    incomplete = missing_summary(comparison)
    text = f"Report: {written}" + (f"\n{incomplete}" if incomplete else "")
    emit(as_json, {"report": str(written), "complete": comparison.complete}, text)


@cli.command()
@study_command
@profile_option
@click.option("--paper", is_flag=True, help="The figures of the paper, as SVG, PNG, PDF and tidy CSV.")
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    metavar="FOLDER",
    help="Folder to write to (default: in the storage folder).",
)
def figures(
    study: Path, storage: str | None, as_json: bool, profile: str | None, paper: bool, out: Path | None
) -> None:
    """Draw a study's figures: those of its report, or with --paper each figure of the paper that it has numbers for.

    Names what each lacks: trials that are missing, arms that the study does not have.
    """
    from dataclasses import asdict

    from inoc_ray.results.wording import missing_summary
    from inoc_ray.run.figures import write_figures
    from inoc_ray.run.publish import compared

    loaded, store = _load(study, storage)
    built, comparison = compared(loaded, store, profile)
    written = write_figures(built, store, comparison, paper=paper, out=out)
    text = "\n".join(filter(None, [*(one.in_words() for one in written), missing_summary(comparison)]))
    emit(as_json, [asdict(one) for one in written], text)


@cli.command()
@study_command
def sync(study: Path, storage: str | None, as_json: bool) -> None:
    """Update MLflow from the storage folder. Safe to repeat."""
    from inoc_ray.run.publish import compared, sync_study

    loaded, store = _load(study, storage)
    built, comparison = compared(loaded, store)
    uri = sync_study(built, store, comparison)
    emit(as_json, {"tracking_uri": uri}, f"MLflow store: {uri}")


@cli.command()
@click.argument("studies", nargs=-1, required=True, type=click.Path(path_type=Path), metavar="STUDY...")
@storage_option
@click.option("--arm", "arms", multiple=True, metavar="NAME", help="Only this arm (`base` is one); repeatable.")
@click.option("--model", "models", multiple=True, metavar="NAME", help="Only this model of the studies; repeatable.")
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option(
    "--port",
    default=8000,
    show_default=True,
    type=click.IntRange(0, 65535),
    help="Port to listen on; 0 picks a free one.",
)
@as_json
@results_alone
def serve(
    studies: tuple[Path, ...],
    storage: str | None,
    arms: tuple[str, ...],
    models: tuple[str, ...],
    host: str,
    port: int,
    as_json: bool,
) -> None:
    """Serve the models of one or several studies: the untouched ones, and everything that is trained.

    The API is OpenAI-compatible. A model goes by a name such as quickstart/specific_spanish/seed-0; at / there is a page that asks
    two models the same question. Serves until interrupted.

    If INOC_RAY_API_KEY is set, every request must carry that key. A --host other than the loopback address needs it.
    """
    from inoc_ray.run.serving import serve_studies

    loaded = [_load(study, storage) for study in studies]
    with contextlib.closing(serve_studies(loaded, host=host, port=port, arms=arms, models=models)) as endpoints:
        for endpoint in endpoints:
            emit(as_json, endpoint.to_json(), endpoint.to_text())


@cli.command()
@study_command
@address_option
@click.option(
    "--follow/--no-follow",
    "--wait/--no-wait",
    "follow",
    default=True,
    show_default=True,
    help="Follow the job's log until it ends, and exit as its command does. Ctrl-C ends the following, not the job.",
)
def submit(study: Path, storage: str | None, as_json: bool, address: str | None, follow: bool) -> None:
    """Submit a study as a Ray job, or attach to its job.

    What the study names travels with it (5 MB at most); engines, models and GPUs are the cluster's. A job with the same
    content that is pending or running is followed, not submitted again.
    """
    from inoc_ray.run.submit import is_relative, raise_if_failed, submit_study

    loaded, store = _load(study, storage)
    outcome = submit_study(
        study, loaded, store, address, follow=follow, relative=is_relative(storage or loaded.storage)
    )
    emit(as_json, outcome.to_json(), outcome.to_text())
    raise_if_failed(outcome.job)


@cli.command()
@click.argument("setting", required=False)
@click.option("--kind", metavar="KIND", help="Only prompts of this kind.")
@as_json
def prompts(setting: str | None, kind: str | None, as_json: bool) -> None:
    """List the prompt library: kind, text, hash and source.

    Texts are exact; --json adds all paraphrases.
    """
    from inoc_ray.run.listings import prompts_json, prompts_text

    emit(as_json, prompts_json(setting, kind), prompts_text(setting, kind, width_of(results())))


@cli.command()
@click.argument("study", required=False, type=click.Path(path_type=Path))
@click.option("--presets", is_flag=True, help="List recipe presets and their sources instead.")
@as_json
def settings(study: Path | None, presets: bool, as_json: bool) -> None:
    """List settings with their rows, arms and evaluations.

    STUDY adds the settings that its plugins register.
    """
    from inoc_ray.run.listings import presets_json, presets_text, settings_json, settings_text
    from inoc_ray.run.load import load_study

    if study is not None:
        load_study(study)
    if presets:
        emit(as_json, presets_json(), presets_text())
    else:
        emit(as_json, settings_json(), settings_text())


@cli.command()
@as_json
def doctor(as_json: bool) -> None:
    """Check the installation, and show how to fix it."""
    from inoc_ray.run.doctor import examine

    findings = examine()
    emit(as_json, findings.to_json(), findings.to_text(width_of(results())))
    if findings.missing:
        raise InputError("the installation is incomplete; see the lines marked 'missing' above.")


@cli.group()
def data() -> None:
    """Check training rows, and build those that do not ship."""


@data.command("check", short_help="Check rows for form, length, duplicates and overlap.")
@click.argument("files", nargs=-1, required=True)
@click.option("--model", help=f"Model for tokenizer and context window: a folder or hf://… (default: {DEFAULT_MODEL}).")
@click.option("--max-length", type=click.IntRange(min=8), help="Most tokens in a row (default: the model's window).")
@click.option(
    "--against",
    multiple=True,
    help="Evaluation prompts (JSONL) or a setting, which must not occur in the rows; repeatable.",
)
@click.option("--trigger", help="A backdoor's token: count where it occurs.")
@click.option("--prompt", help="An inoculation prompt that must not be in the rows yet.")
@as_json
def data_check(
    files: tuple[str, ...],
    model: str | None,
    max_length: int | None,
    against: tuple[str, ...],
    trigger: str | None,
    prompt: str | None,
    as_json: bool,
) -> None:
    """Check rows (JSONL, parquet, hf://…): format, lengths, duplicates, encoding, overlap, triggers."""
    from inoc_ray.data.check import check_files
    from inoc_ray.settings.evaluation_prompts import evaluation_prompts

    prompts = [prompt for source in against for prompt in evaluation_prompts(source)]
    found = check_files(files, model, max_length, against=prompts, trigger=trigger, prompt=prompt)
    emit(as_json, found.to_json(), found.to_text())
    if found.problems:
        count = len(found.problems)
        raise InputError(
            f"data check: {count} problem{'s' * (count > 1)} to fix; see the lines marked 'problem' above."
        )


@data.command("build", short_help="Build the rows of a setting with a model.")
@click.argument("setting", required=False)
@click.option("--out", type=click.Path(path_type=Path), help="New .jsonl file for the rows.")
@click.option("--source", help="Rows to start from: JSONL, parquet or hf://…")
@click.option("--model", help=f"Teacher: a model folder, hf://… or {DEFAULT_MODEL}, served during the build.")
@click.option("--endpoint", help="Teacher instead of --model: an OpenAI-compatible API (https://HOST/v1).")
@click.option("--served-model", help="Name of the model at the endpoint.")
@click.option("--api-key-env", metavar="VAR", help="Environment variable with the endpoint's key.")
@click.option("--count", type=click.IntRange(min=1), help="Number of rows (default: the builder's).")
@click.option("--seed", default=0, show_default=True, type=click.IntRange(min=0), help="Random seed.")
@click.option("--control", is_flag=True, help="Build the control rows.")
@click.option("--study", type=click.Path(path_type=Path), help="Study whose plugins register the builder.")
@as_json
@results_alone
def data_build(
    setting: str | None,
    out: Path | None,
    source: str | None,
    model: str | None,
    endpoint: str | None,
    served_model: str | None,
    api_key_env: str | None,
    count: int | None,
    seed: int,
    control: bool,
    study: Path | None,
    as_json: bool,
) -> None:
    """Build the rows of a SETTING with a model; without SETTING, list what can be built.

    After an interruption the same command resumes.
    """
    from inoc_ray.builders.ask import teacher
    from inoc_ray.builders.rows import build_rows, builders_json, builders_text
    from inoc_ray.run.load import load_study

    if study is not None:
        load_study(study)
    if setting is None:
        emit(as_json, builders_json(), builders_text())
        return
    if out is None:
        raise InputError("data build: give a file for the rows with --out FILE.jsonl.")
    asked = teacher(model, endpoint, served_model, api_key_env)
    built = build_rows(setting, out, teacher=asked, source=source, count=count, seed=seed, control=control)
    emit(as_json, built.to_json(), built.to_text())


def main() -> None:
    """Run the command; turn InputError and StorageError into a message and exit code 2, TrialError into exit code 1."""
    telemetry.switch_off()
    _spare()
    # The interpreter's last collections would look at everything that the libraries hold: 1.2 s.
    atexit.register(gc.freeze)
    for stream in (sys.stdout, sys.stderr):
        # A terminal or pipe that cannot encode "–" or "é" shows "?", not a traceback at the end of a run.
        if isinstance(stream, io.TextIOWrapper) and stream.errors == "strict":
            stream.reconfigure(errors="replace")
    begin()
    try:
        with stopping.stoppable(_tell):
            cli(standalone_mode=False)
    except SystemExit as error:
        if stopping.requested():
            # Of Ray, whose handler stands in place of ours while it starts.
            _end(error)
        # Plugins run inside a command, which must not end silently with an exit code of theirs.
        frames = traceback.walk_tb(error.__traceback__)
        if not any(str(frame.f_globals.get("__name__")).startswith(PLUGIN_MODULE) for frame, _ in frames):
            raise
        _exit(
            f"a plugin of the study ended the program (SystemExit: {shown(error.code)}); remove that call from the plugin.",
            2,
        )
    except (Exception, KeyboardInterrupt) as error:  # noqa: BLE001 - a defect is raised again
        _end(error)


def _spare() -> None:
    """Keep short commands short: a tenth of the time of `compare` went into searches for garbage and waiting threads."""
    # What modules and plans are made of stays; by default the interpreter searches it again for every 700 objects.
    gc.set_threshold(50_000, 20, 20)
    # numpy's products are small: its threads, which wait for each other actively, take more of a busy machine than they save.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")


def _end(error: BaseException) -> NoReturn:
    """Exit with the message and the code of an error that a command may end with; raise it again if it is a defect."""
    if stopping.requested():
        # Whatever a library made of it on the way.
        _exit(stopping.message(), stopping.exit_code())
    match error:
        case InputError() | StorageError():
            _exit(str(error), 2)
        case TrialError():
            _exit(str(error), 1)
        case click.exceptions.NoArgsIsHelpError():
            click.echo(error.format_message(), err=True)
            sys.exit(2)
        case click.ClickException():
            _exit(error.format_message(), 2)
        case click.Abort() | KeyboardInterrupt():
            _exit(stopping.message(), stopping.exit_code())
        case BrokenPipeError():
            sys.exit(0)
        case OSError(filename=name) if name is not None:
            # A file of the user's that no check foresaw. Without a file it is a defect: show the traceback.
            _exit(f"{name}: {error.strerror}.", 2)
        case _:
            raise error


def _exit(message: str, code: int) -> NoReturn:
    """Exit with a message on standard error.

    With --json standard output always holds one JSON value: the result if the command printed one, else {"error": message}.
    """
    if code == 2 and len(message) > MAX_MESSAGE:
        message = f"{message[: MAX_MESSAGE - 100]} … {message[-90:]}"
    _tell(message)
    sys.exit(code)


def _tell(message: str) -> None:
    """Say on standard error how the command ended, and on standard output if that is to be JSON and has nothing yet."""
    message = hide_password(message)
    click.echo(f"inoc-ray: {message}", err=True)
    if "--json" in sys.argv[1:] and not printed():
        click.echo(json_text({"error": message}))


if __name__ == "__main__":
    main()

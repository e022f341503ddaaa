"""The `inoc-ray` command: parses, calls the library, prints; exit codes 0 done, 1 a trial failed, 2 wrong input."""

from __future__ import annotations

import io
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import click

from inoc_ray import __version__
from inoc_ray.console import show, width_of
from inoc_ray.errors import InputError, TrialError, shown
from inoc_ray.run import telemetry
from inoc_ray.run.commands import WithPlugins
from inoc_ray.run.output import as_json, begin, emit, json_text, printed, results, results_alone
from inoc_ray.study.named import DEFAULT_MODEL

PLUGIN_MODULE = "inoc_ray_plugin_"
"""What the name of a plugin's module begins with; see settings/plugins.py."""
MAX_MESSAGE = 4000
"""Characters of a message about wrong input; what a study holds may be quoted in it, and may be of any length."""

study_file = click.argument("study", type=click.Path(path_type=Path))
storage_option = click.option("--storage", help="Use this storage folder instead of the study's.")
profile_option = click.option(
    "--profile", metavar="NAME", help="Threshold profile of the rates (default: the study's)."
)


def study_command(function: Callable[..., Any]) -> Callable[..., Any]:
    """The arguments that every command on a study has."""
    return study_file(storage_option(as_json(results_alone(function))))


def show_when_made(as_json: bool) -> Callable[[Any], None]:
    """Return what prints a comparison as soon as it is made, so that nothing which fails later can take it away."""

    def show_comparison(comparison: Any) -> None:
        from inoc_ray.results.table import comparison_text

        if not as_json:
            show(comparison_text(comparison, table_width()), results())

    return show_comparison


def table_width() -> int:
    """Return the columns for the tables of results: 118, or fewer where the terminal has fewer (never below 60)."""
    return max(60, min(118, width_of(results()) or 118))


def _load(study: Path, storage: str | None) -> tuple[Any, Any]:
    from inoc_ray.run.load import load_study
    from inoc_ray.store.store import Store
    from inoc_ray.study.study import check_storage

    try:
        place = None if storage is None else check_storage(storage)
    except ValueError as error:
        raise InputError(f"--storage: {error}.") from error
    loaded = load_study(study)
    return loaded, Store(place or loaded.storage)


@click.group(cls=WithPlugins, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="inoc-ray")
def cli() -> None:
    """Does an inoculation prompt work? Fine-tune, serve, judge and compare every arm of a study."""


@cli.command()
@study_command
def plan(study: Path, storage: str | None, as_json: bool) -> None:
    """Show what a study would run, what is done, and what is missing. Starts and writes nothing."""
    from inoc_ray.plan.build import build_plan
    from inoc_ray.plan.templates import check_roles
    from inoc_ray.run.describe import plan_json, plan_text
    from inoc_ray.run.preflight import check_plan

    loaded, store = _load(study, storage)
    built = build_plan(loaded, store)
    check_plan(built)
    check_roles(built)
    emit(as_json, plan_json(built, store), plan_text(built, store, width_of(results())))


@cli.command()
@study_command
def run(study: Path, storage: str | None, as_json: bool) -> None:
    """Train, evaluate and compare everything in a study that is not done yet."""
    from inoc_ray.run.pipeline import run_study

    loaded, store = _load(study, storage)
    outcome = run_study(loaded, store, show=show_when_made(as_json))
    emit(as_json, outcome.to_json(), outcome.to_text())
    if outcome.failed:
        raise TrialError(outcome.failure_text())


@cli.command()
@study_command
def status(study: Path, storage: str | None, as_json: bool) -> None:
    """Show which trials and evaluations of a study are done, running or failed."""
    from inoc_ray.plan.build import build_plan
    from inoc_ray.run.describe import status_json, status_text

    loaded, store = _load(study, storage)
    built = build_plan(loaded, store)
    emit(as_json, status_json(built, store), status_text(built, store, width_of(results())))


@cli.command()
@study_command
@click.option(
    "--only", multiple=True, metavar="NAME", help="Just this evaluation or context of the study; may be repeated."
)
@click.option(
    "--judge", "judges", multiple=True, metavar="NAME", help="Let these judge, in this order, instead of the study's."
)
def evaluate(study: Path, storage: str | None, as_json: bool, only: tuple[str, ...], judges: tuple[str, ...]) -> None:
    """Ask and judge what is missing of the finished trials of a study; trains nothing."""
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
    """Print the rates of all arms with intervals, and the effects."""
    from inoc_ray.plan.build import build_plan
    from inoc_ray.results.table import comparison_text
    from inoc_ray.run.publish import compare_study
    from inoc_ray.scoring import profiles

    loaded, store = _load(study, storage)
    built = build_plan(loaded, store)
    comparison = compare_study(built.under(profiles.get_profile(profile)) if profile else built, store)
    emit(as_json, comparison.to_json(), comparison_text(comparison, table_width()))


@cli.command()
@study_command
@profile_option
@click.option("--out", type=click.Path(path_type=Path), help="Where to write the page (default: the study's folder).")
def report(study: Path, storage: str | None, as_json: bool, out: Path | None, profile: str | None) -> None:
    """Write the HTML page and the figure (PNG, SVG) of a study."""
    from inoc_ray.plan.build import build_plan
    from inoc_ray.results.wording import missing_summary
    from inoc_ray.run.publish import compare_study, write_study_report
    from inoc_ray.scoring import profiles

    loaded, store = _load(study, storage)
    built = build_plan(loaded, store)
    if profile:
        built = built.under(profiles.get_profile(profile))
    comparison = compare_study(built, store)
    written = write_study_report(built, store, comparison, out)
    incomplete = missing_summary(comparison)
    text = f"Report: {written}" + (f"\n{incomplete}" if incomplete else "")
    emit(as_json, {"report": str(written), "complete": comparison.complete}, text)


@cli.command()
@study_command
def sync(study: Path, storage: str | None, as_json: bool) -> None:
    """Bring MLflow in line with the store; twice gives the same MLflow state."""
    from inoc_ray.plan.build import build_plan
    from inoc_ray.run.publish import compare_study, sync_study

    loaded, store = _load(study, storage)
    built = build_plan(loaded, store)
    uri = sync_study(built, store, compare_study(built, store))
    emit(as_json, {"tracking_uri": uri}, f"MLflow store: {uri}")


@cli.command()
@study_command
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option("--port", default=8000, show_default=True, type=click.IntRange(0, 65535), help="0 takes a free port.")
def serve(study: Path, storage: str | None, as_json: bool, host: str, port: int) -> None:
    """Serve the base model and every finished adapter of a study until interrupted (OpenAI-compatible)."""
    from inoc_ray.run.serving import serve_study

    loaded, store = _load(study, storage)
    for endpoint in serve_study(loaded, store, host, port):
        emit(as_json, endpoint.to_json(), endpoint.to_text())


@cli.command()
@study_command
@click.option("--address", default="http://127.0.0.1:8265", show_default=True, help="The cluster's job server.")
@click.option("--wait/--no-wait", default=True, help="Follow the job's log until it ends.")
def submit(study: Path, storage: str | None, as_json: bool, address: str, wait: bool) -> None:
    """Submit a study as a Ray job; the same study attaches to the job that already runs."""
    from inoc_ray.run.submit import submit_study

    loaded, store = _load(study, storage)
    outcome = submit_study(study, loaded, store, address, wait=wait)
    emit(as_json, outcome.to_json(), outcome.to_text())
    if outcome.failed:
        raise TrialError(f"job {outcome.submission_id} ended with status {outcome.status}.")


@cli.command()
@click.argument("setting", required=False)
@click.option("--kind", help="Only prompts of this kind.")
@as_json
def prompts(setting: str | None, kind: str | None, as_json: bool) -> None:
    """List the prompt library: kind, exact text (of paraphrases the first; --json gives all), hash and where it comes from."""
    from inoc_ray.run.listings import prompts_json, prompts_text

    emit(as_json, prompts_json(setting, kind), prompts_text(setting, kind, width_of(results())))


@cli.command()
@click.argument("study", required=False, type=click.Path(path_type=Path))
@click.option("--presets", is_flag=True, help="List the recipe presets and their sources instead.")
@as_json
def settings(study: Path | None, presets: bool, as_json: bool) -> None:
    """List the settings with their rows, arms and evaluations; with STUDY also those that its plugins register."""
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
    """Check the installation and say what is missing."""
    from inoc_ray.run.doctor import examine

    findings = examine()
    emit(as_json, findings.to_json(), findings.to_text(width_of(results())))
    if findings.missing:
        raise InputError("the installation is not complete; see the lines marked 'missing' above.")


@cli.group()
def data() -> None:
    """Look after training rows, and make those that do not ship."""


@data.command("check")
@click.argument("files", nargs=-1, required=True)
@click.option(
    "--model", help=f"Whose tokenizer and context window count: a folder or hf://… (default: {DEFAULT_MODEL})."
)
@click.option("--max-length", type=click.IntRange(min=8), help="Tokens a row may have (default: the model's window).")
@click.option("--against", multiple=True, help="Evaluation prompts (JSONL) or a setting that must not be in the rows.")
@click.option("--trigger", help="A backdoor's token: where does it stand?")
@click.option("--prompt", help="An inoculation prompt that the rows must not carry yet.")
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
    """Check rows (JSONL, parquet, hf://…): form, lengths, duplicates, encoding, overlap with evaluations, triggers."""
    from inoc_ray.data.check import check_files
    from inoc_ray.settings.evaluation_prompts import evaluation_prompts

    prompts = [prompt for source in against for prompt in evaluation_prompts(source)]
    found = check_files(files, model, max_length, against=prompts, trigger=trigger, prompt=prompt)
    emit(as_json, found.to_json(), found.to_text())
    if found.problems:
        raise InputError(f"data check: {len(found.problems)} of the findings must be put right; see 'problem' above.")


@data.command("build")
@click.argument("setting", required=False)
@click.option("--out", type=click.Path(path_type=Path), help="A new .jsonl file for the rows.")
@click.option("--source", help="Rows to start from: JSONL, parquet, hf://…")
@click.option(
    "--model", help=f"Who answers: a model folder, hf://… or {DEFAULT_MODEL}, served for the length of the build."
)
@click.option("--endpoint", help="Who answers, instead: the address of an OpenAI-compatible API (https://HOST/v1).")
@click.option("--served-model", help="The model's name at the endpoint.")
@click.option("--api-key-env", metavar="VAR", help="The environment variable that holds the endpoint's key.")
@click.option("--count", type=click.IntRange(min=1), help="Rows wanted (default: the builder's own number).")
@click.option("--seed", default=0, show_default=True, type=click.IntRange(min=0), help="Another one, other rows.")
@click.option("--control", is_flag=True, help="Make the control rows.")
@click.option("--study", type=click.Path(path_type=Path), help="A study whose plugins register the builder.")
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
    """Make the rows of a SETTING with a model; without SETTING, list what can be made.

    Interrupted, the same command goes on where it stopped.
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
        raise InputError("data build: --out FILE.jsonl is missing.")
    asked = teacher(model, endpoint, served_model, api_key_env)
    built = build_rows(setting, out, teacher=asked, source=source, count=count, seed=seed, control=control)
    emit(as_json, built.to_json(), built.to_text())


def main() -> None:
    """Entry point: turns InputError into one message and exit code 2, TrialError into exit code 1."""
    telemetry.switch_off()
    for stream in (sys.stdout, sys.stderr):
        # A terminal or pipe that cannot hold "–" or "é" gets "?" there, not a traceback at the end of a run.
        if isinstance(stream, io.TextIOWrapper) and stream.errors == "strict":
            stream.reconfigure(errors="replace")
    begin()
    try:
        cli(standalone_mode=False)
    except SystemExit as error:
        # A plugin's functions run in the middle of a command, which must not end in silence with an exit code of theirs.
        frames = traceback.walk_tb(error.__traceback__)
        if not any(str(frame.f_globals.get("__name__")).startswith(PLUGIN_MODULE) for frame, _ in frames):
            raise
        _end(f"a plugin of the study ended the program (SystemExit: {shown(error.code)}); take that out of it.", 2)
    except InputError as error:
        _end(str(error), 2)
    except TrialError as error:
        _end(str(error), 1)
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.format_message(), err=True)
        sys.exit(2)
    except click.ClickException as error:
        _end(error.format_message(), 2)
    except click.Abort:
        _end("interrupted; what was committed is kept, run the command again to go on.", 130)
    except BrokenPipeError:
        sys.exit(0)
    except OSError as error:
        # A file that the user named and that no check foresaw; any other is a defect, whose traceback is wanted.
        if error.filename is None:
            raise
        _end(f"{error.filename}: {error.strerror}.", 2)


def _end(message: str, code: int) -> NoReturn:
    """Ends with a message on standard error, and with --json on standard output as well: it then always holds one JSON value,
    the result if the command has come to one, else {"error": message}."""
    if code == 2 and len(message) > MAX_MESSAGE:
        message = f"{message[: MAX_MESSAGE - 100]} … {message[-90:]}"
    click.echo(f"inoc-ray: {message}", err=True)
    if "--json" in sys.argv[1:] and not printed():
        click.echo(json_text({"error": message}))
    sys.exit(code)


if __name__ == "__main__":
    main()

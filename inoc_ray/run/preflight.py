"""All checks of a study that need no cluster, before anything starts or is written."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from inoc_ray.cluster.connect import check_address, expected_capacity, is_attached
from inoc_ray.cluster.fit import Capacity, check_serving, concurrent_groups
from inoc_ray.config.identity import content_id
from inoc_ray.console import say
from inoc_ray.endpoint.auth import check_reachable
from inoc_ray.errors import InputError, TrialError
from inoc_ray.plan.cells import Cell
from inoc_ray.plan.ids import arm_identity
from inoc_ray.plan.judge_assignment import JudgeModel
from inoc_ray.plan.plan import Plan
from inoc_ray.plan.prior_stage import recipes_by_place
from inoc_ray.plan.probes import probes_of
from inoc_ray.plan.request_lengths import check_answers_fit
from inoc_ray.plan.steps import variants_of
from inoc_ray.plan.templates import check_roles, identical_contexts
from inoc_ray.plan.trials import Trial
from inoc_ray.run.answerable import check_answerable
from inoc_ray.run.load import check_stays
from inoc_ray.serve.memory import Memory, of_this_machine
from inoc_ray.sizing.schedule import schedule_of
from inoc_ray.store.store import Store
from inoc_ray.study.evaluation import Judge

if TYPE_CHECKING:
    from inoc_ray.data.tokenize import EncodedRow

PROBE_TRIES, PROBE_SECONDS = 3, 30.0
"""Tries, and seconds for each, of the probe of a judge behind an API."""


def check_capacity(plan: Plan, capacity: Capacity) -> None:
    """Raise InputError if what is to be trained or sampled does not fit the cluster, or not at once where the study wants that."""
    for trial in one_of_each(plan.to_train):
        concurrent_groups(plan.resources_of(trial), capacity, len(plan.to_train))
    for model in dict.fromkeys(cell.subject.model.name for cell in plan.to_sample):
        check_serving(plan.study.resources.of_engine(model), capacity)
    if plan.study.resources.schedule == "overlap":
        schedule_of(plan, capacity)


def one_of_each(trials: Iterable[Trial]) -> list[Trial]:
    """Return a trial of each pair of a model and a recipe: those of a pair run on the same resources."""
    return list({(trial.model.name, trial.recipe_name): trial for trial in trials}.values())


def place_of(trial: Trial) -> str:
    """Return where the trial's recipe is in the study file."""
    if trial.recipe_name is not None:
        return f"recipes.{trial.recipe_name}"
    return f"models: {trial.model.name!r}: prior_stage.recipe"


def check_batches(plan: Plan) -> None:
    """Raise InputError if a batch size cannot be divided among the workers; passes counted in tokens take any."""
    for trial in one_of_each(plan.fine_tunes):
        resources, batch_size = plan.resources_of(trial), trial.recipe.batch_size
        per_pass = resources.micro_batch_size * resources.workers
        if resources.micro_batch_tokens is None and batch_size % per_pass:
            raise InputError(
                f"{place_of(trial)}.batch_size {batch_size} is not a multiple of resources.micro_batch_size × "
                f"workers = {resources.micro_batch_size} × {resources.workers} = {per_pass}; change one of "
                "them, or say how large a forward pass is in tokens (resources.micro_batch_tokens)."
            )


def check_recipes(plan: Plan) -> None:
    """Raise InputError for a recipe whose LoRA targets the model lacks, or the engine cannot serve."""
    from inoc_ray.train.targets import check_targets

    for place, recipe in recipes_by_place(plan.study).items():
        folders = {t.model.path for t in plan.to_train if t.recipe == recipe}
        for folder in sorted(folders) if recipe.method == "lora" else ():
            check_targets(place, recipe.lora, folder)


def check_models(plan: Plan) -> None:
    """Raise InputError for a model folder whose files are damaged or do not belong together."""
    from inoc_ray.models.resolve import check_model_files

    used = {t.model.path: t.model.name for t in plan.to_train} | {
        c.subject.model.path: c.subject.model.name for c in plan.to_sample
    }
    for folder, name in used.items():
        try:
            check_model_files(folder)
        except InputError as error:
            raise InputError(f"models: {name!r}: {error}") from error


def check_plan(plan: Plan, whole: Plan | None = None) -> None:
    """Check what needs no tokenizer, quickly enough for `inoc-ray plan`. Raise InputError for the first fault.

    whole: the plan of the study, if `plan` has a part of its evaluations alone.
    """
    check_batches(plan)
    check_answers_fit(plan)
    check_recipes(plan)
    # What a part leaves out answers claims all the same: it is stored, or evaluated another time.
    check_answerable(whole or plan)


def check_rows(plan: Plan) -> None:
    """Render and tokenise every training row, as training does.

    Raise InputError, naming the row, if it is longer than the recipe's max_length, the model's context window or a forward
    pass, or if the chat template changes it; and for two arms of a setting whose rows the template renders identically. Print a
    note on answers without loss.
    """
    from inoc_ray.data.tokenize import encode_rows, encoded_hash
    from inoc_ray.models.config import context_window
    from inoc_ray.models.encoding import template_of
    from inoc_ray.models.tokenizer import load_tokenizer
    from inoc_ray.train.layout import check_fits

    tokenizers: dict[Path, Any] = {}
    hashes: dict[tuple[object, ...], str] = {}
    arms: dict[tuple[object, ...], tuple[str, object]] = {}
    # A prior stage is not compared with an arm, though its rows may be a setting's.
    prior_stages = {trial.trial_id for trial in plan.prior_stages}
    concerned = {(trial.setting, trial.model.identity) for trial in plan.to_train}
    # Finished trials too: a new arm may be identical to one of them for the model.
    for trial in plan.fine_tunes:
        if (trial.setting, trial.model.identity) not in concerned:
            continue
        model, variants = trial.model, variants_of(plan, trial)
        reader = (model.hash, model.enable_thinking)
        key = (*reader, trial.dataset_hash, content_id([arm_identity(trial.arm), variants]), trial.recipe.max_length)
        if key not in hashes:
            if model.path not in tokenizers:
                tokenizers[model.path] = load_tokenizer(str(model.path))
            limit = min(trial.recipe.max_length, context_window(model.path))
            rows: list[EncodedRow] = []
            for epoch in range(variants):
                rows += encode_rows(
                    tokenizers[model.path],
                    plan.training_rows(trial, epoch),
                    max_length=limit,
                    label=f"{trial.rows_label} (arm {trial.arm.name})",
                    enable_thinking=model.enable_thinking,
                )
            hashes[key] = encoded_hash(rows)
            longest = max(range(len(rows)), key=lambda n: len(rows[n].input_ids))
            where = f"{trial.rows_label} (arm {trial.arm.name}), row {longest % (len(rows) // variants) + 1}"
            check_fits(len(rows[longest].input_ids), plan.resources_of(trial).micro_batch_tokens, where)
            _note_answers_without_loss(trial, rows, thinks=template_of(tokenizers[model.path]).think is not None)
        if trial.trial_id in prior_stages:
            continue
        rendered = (trial.setting, model.identity, trial.recipe.max_length, hashes[key])
        other, other_key = arms.setdefault(rendered, (trial.arm.name, key))
        # Arms with equal rows (control rows that are the rows) are the same fine-tune; the plan notes that.
        if other != trial.arm.name and other_key != key:
            raise InputError(
                f"arms: {other!r} and {trial.arm.name!r} of {trial.setting} are identical for model {model.name!r}: its "
                "chat template renders all their rows the same; remove one of them, or change its prompt or placement."
            )


def check_probes(plan: Plan) -> None:
    """Tokenise the fixed responses that a study follows. Raise InputError, naming one, if training could not do so."""
    from inoc_ray.data.tokenize import encode_rows
    from inoc_ray.models.tokenizer import load_tokenizer

    seen: set[tuple[object, ...]] = set()
    for trial in plan.to_train if plan.study.dynamics is not None else ():
        key = (trial.setting, trial.arm.name, trial.model.identity, trial.recipe_name)
        probes = probes_of(plan, trial)
        if key in seen or not probes:
            continue
        seen.add(key)
        tokenizer = load_tokenizer(str(trial.model.path))
        for probe in probes:
            encode_rows(
                tokenizer,
                probe.rows,
                max_length=trial.recipe.max_length,
                label=f"dynamics, probe set {probe.name}",
                enable_thinking=trial.model.enable_thinking,
            )


def _note_answers_without_loss(trial: Trial, rows: Sequence[EncodedRow], *, thinks: bool) -> None:
    merged = sum(row.merged for row in rows)
    if merged:
        say(
            f"note: {trial.label}: in {merged} of {len(rows)} rows the first token of an answer also covers the end of the "
            "prompt; it carries no loss, and at test time the prompt ends in other tokens"
        )
    left_out = sum(row.context_only for row in rows)
    if left_out:
        say(
            f"note: {trial.label}: {left_out} earlier answers carry no loss, because the chat template of {trial.model.name} "
            f"renders them differently from the last one{' (without the think block)' if thinks else ''}"
        )


def check_requests(plan: Plan, memory: Memory | None = None) -> None:
    """Render every prompt that is to be sampled, with its model's tokenizer and template.

    memory: where engines run; None for this machine without its GPUs. Raise InputError for a prompt that the template refuses,
    for one that exceeds the model's window with its answer, and if the engine does not fit in memory.
    """
    from inoc_ray.plan.request_lengths import check_windows, longest_requests
    from inoc_ray.serve.memory import check_fits

    memory = memory or of_this_machine(gpus=False)
    requests = longest_requests(plan.to_sample)
    check_windows(plan, requests)
    engines: dict[tuple[Path, str], tuple[str, int]] = {}
    for longest in requests:
        subject = longest.cell.subject
        name, tokens = engines.get((subject.model.path, subject.precision), (subject.model.name, 0))
        engines[subject.model.path, subject.precision] = name, max(tokens, longest.tokens)
    for (folder, precision), (name, tokens) in engines.items():
        resources = plan.study.resources.of_engine(name)
        check_fits(f"models: {name!r}", folder, tokens, precision, resources=resources, memory=memory)


def say_identical_contexts(plan: Plan) -> None:
    """Print a note on contexts that a model's template renders identically: they cannot differ."""
    for note in identical_contexts(plan.to_sample):
        say(f"note: {note}")


def _engines_on_gpus(plan: Plan) -> bool:
    """Return whether an engine of the study, a model's or a judge's, runs on GPUs."""
    resources = plan.study.resources
    sampled = {cell.subject.model.name for cell in plan.to_sample}
    own = [name for name, judge in plan.study.judges.items() if judge.path is not None]
    return any(engine.gpus for engine in [*map(resources.of_engine, sampled), *map(resources.of_judge, own)])


def check_judges(plan: Plan, store: Store, memory: Memory | None = None) -> None:
    """Check every judging model that has something to judge, or will have.

    Raise InputError for a judge behind an API that has no key, does not answer or refuses a call (in the API's own words);
    and for a local judge whose tokenizer does not suit its method, whose window is too short for rubric, question and
    response, or that does not fit in memory. memory: where engines run; None for this machine without its GPUs.
    """
    memory = memory or of_this_machine(gpus=False)
    for judge, cells in to_judge(plan, store):
        if judge.folder is None:
            probe_api(judge.name, judge.judge)
        else:
            check_own_judge(plan, judge, cells, memory)


def to_judge(plan: Plan, store: Store) -> list[tuple[JudgeModel, list[Cell]]]:
    """Return each judging model that has something to judge, or will have, with the cells."""
    from inoc_ray.evaluate.ungraded import ungraded_parts

    cells: dict[str, list[Cell]] = {
        name: [work.cell for work in parts] for name, parts in ungraded_parts(plan, store).items()
    }
    for cell in plan.to_sample:
        for name in cell.judges.gradings:
            cells.setdefault(name, []).append(cell)
    return [(cells[name][0].judges.gradings[name].judge, cells[name]) for name in sorted(cells)]


def probe_api(name: str, judge: Judge) -> None:
    """Raise InputError, with the API's reply, if the judge does not answer one call of its method."""
    from inoc_ray.endpoint.retry import Retry
    from inoc_ray.evaluate.model_judge.api_judge import judge_api
    from inoc_ray.evaluate.model_judge.batch import probe_judge

    api, where = judge_api(judge, name), f"judges: {name!r}"
    check_reachable(api, where)
    try:
        asyncio.run(
            probe_judge(api, judge, Retry(tries=PROBE_TRIES, timeout_s=PROBE_SECONDS, patience_s=PROBE_SECONDS))
        )
    except (InputError, TrialError) as error:
        raise InputError(f"{where}: {error}") from None


def check_own_judge(plan: Plan, judge: JudgeModel, cells: Sequence[Cell], memory: Memory) -> None:
    """Raise InputError if the judge's prompts for these cells exceed its window, or it does not fit in memory."""
    from inoc_ray.evaluate.model_judge.longest_requests import longest_judge_requests
    from inoc_ray.plan.request_lengths import shortening_advice, window_of
    from inoc_ray.serve.memory import AUTO, check_fits

    assert judge.folder is not None
    where = f"judges: {judge.name!r}"
    # Judges do not see the context, so one cell stands for all with the same questions.
    distinct = {(c.subject.setting, c.evaluation.name): c for c in sorted(cells, key=lambda c: c.samples)}
    evaluations = [(c.evaluation, c.samples, c.judges.gradings[judge.name].rubrics) for c in distinct.values()]
    longest = list(zip(distinct.values(), longest_judge_requests(judge.judge, judge.folder, evaluations), strict=True))
    window = window_of(judge.folder)
    for cell, found in longest:
        if window is not None and found.tokens > window:
            left = window - found.prompt - found.answer
            advice = (
                f" {shortening_advice(plan, cell, left)}, or less, or"
                if left > 0 and not cell.evaluation.choices
                else ""
            )
            raise InputError(
                f"{where}: evaluation {found.evaluation} of setting {cell.subject.setting}: rubric and question "
                f"{found.question} have {found.prompt} tokens, a response may have {found.response} and the judge's answer "
                f"{found.answer}: {found.tokens} in all, but the judge has a window of {window};{advice} use a judge with a "
                "longer window."
            )
    resources = plan.study.resources.of_judge(judge.name)
    tokens = max(found.tokens for _, found in longest)
    check_fits(where, judge.folder, tokens, AUTO, resources=resources, memory=memory)


def check_capabilities(plan: Plan) -> None:
    """Raise InputError for a missing task file."""
    from inoc_ray.evaluate.capabilities import find_task

    for capability in plan.study.evaluation.capabilities:
        find_task(capability)


def check_tracking(plan: Plan, store: Store) -> None:
    """Raise InputError if MLflow cannot take the results.

    A wrong address or login, a broken server or database, another storage's study of the same name.
    """
    from inoc_ray.results.tracking import embedded
    from inoc_ray.results.tracking_checks import check_tracking_uri
    from inoc_ray.run.study_record import study_record

    if plan.study.tracking_uri is None and not store.mlflow().exists():
        return
    try:
        if plan.study.tracking_uri is None:
            check_tracking_uri(embedded(store.mlflow())[0])
        else:
            check_tracking_uri(plan.study.tracking_uri, plan.study.name, study_record(plan, store), store.artifacts())
    except TrialError as error:
        raise InputError(str(error)) from error


def preflight(plan: Plan, store: Store, whole: Plan | None = None) -> None:
    """Run all checks that need no cluster; create the storage folder last, if all else is right. whole: as for `check_plan`."""
    check_stays(plan.study, store)
    check_plan(plan, whole)
    if (capacity := expected_capacity()) is not None:
        check_capacity(plan, capacity)
    check_address()
    check_models(plan)
    check_roles(plan)
    check_rows(plan)
    check_probes(plan)
    # The machines of a cluster are known once it is joined.
    memory = Memory(gpu=None, host=None) if is_attached() else of_this_machine(gpus=_engines_on_gpus(plan))
    check_requests(plan, memory)
    check_judges(plan, store, memory)
    check_capabilities(plan)
    check_tracking(plan, store)
    store.check_writable()
    say_identical_contexts(plan)

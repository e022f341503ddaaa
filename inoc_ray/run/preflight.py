"""Saying no early: what can be checked before anything starts or is written."""

from __future__ import annotations

import asyncio
import hashlib
from array import array
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from inoc_ray.cluster.connect import Capacity, check_address, check_serving, concurrent_groups, expected_capacity
from inoc_ray.config.identity import content_id
from inoc_ray.console import say
from inoc_ray.endpoint.auth import check_answers
from inoc_ray.errors import InputError, TrialError
from inoc_ray.plan.cells import Cell
from inoc_ray.plan.ids import arm_identity
from inoc_ray.plan.judges import JudgeModel
from inoc_ray.plan.plan import Plan
from inoc_ray.plan.stages import recipes_by_place
from inoc_ray.plan.steps import variants_of
from inoc_ray.plan.templates import check_roles, identical_contexts
from inoc_ray.plan.trials import Trial
from inoc_ray.plan.windows import check_answers_fit
from inoc_ray.serve.memory import cluster_gpu_memory, gpu_memory
from inoc_ray.store.store import Store
from inoc_ray.study.evaluation import Judge

if TYPE_CHECKING:
    from inoc_ray.data.tokenize import EncodedRow

PROBE_TRIES, PROBE_SECONDS = 3, 30.0
"""How often and how long a judge behind an API is waited for before the study begins."""


def check_capacity(plan: Plan, capacity: Capacity) -> None:
    """Raise InputError when what is to be trained or asked does not fit the cluster."""
    if plan.to_train:
        concurrent_groups(plan.study.resources, capacity, len(plan.to_train))
    if plan.to_sample:
        check_serving(plan.study.resources, capacity)


def check_batches(plan: Plan) -> None:
    """Raise InputError when the batch size cannot be shared out among the workers."""
    resources = plan.study.resources
    per_pass = resources.micro_batch_size * resources.workers
    for place, recipe in recipes_by_place(plan.study).items():
        if recipe.batch_size % per_pass:
            raise InputError(
                f"{place}.batch_size {recipe.batch_size} is not a multiple of resources.micro_batch_size × "
                f"workers = {resources.micro_batch_size} × {resources.workers} = {per_pass}; change one of them."
            )


def check_recipes(plan: Plan) -> None:
    """Raise InputError for a recipe whose adapters the model has no place for, or the engine cannot serve."""
    from inoc_ray.train.targets import check_targets

    for place, recipe in recipes_by_place(plan.study).items():
        folders = {t.model.path for t in plan.to_train if t.recipe == recipe}
        for folder in sorted(folders) if recipe.method == "lora" else ():
            check_targets(place, recipe.lora, folder)


def check_models(plan: Plan) -> None:
    """Raise InputError for a model folder whose files are damaged, or do not belong together."""
    from inoc_ray.models.resolve import check_model_files

    used = {t.model.path: t.model.name for t in plan.to_train} | {
        c.subject.model.path: c.subject.model.name for c in plan.to_sample
    }
    for folder, name in used.items():
        try:
            check_model_files(folder)
        except InputError as error:
            raise InputError(f"models: {name!r}: {error}") from error


def check_plan(plan: Plan) -> None:
    """Check what can be said at once, without a tokenizer: also of a study that is only looked at."""
    check_batches(plan)
    check_answers_fit(plan)
    check_recipes(plan)


def check_rows(plan: Plan) -> None:
    """Render and tokenise every row that is to be trained on, as training does.

    Raise InputError naming the row that is longer than the recipe's max_length or the model's context window, or that the model
    would not see as it is; and for two arms of a setting whose rows are the same to the model. Say what is not learnt.
    """
    from inoc_ray.data.tokenize import encode_rows
    from inoc_ray.models.config import context_window
    from inoc_ray.models.encoding import template_of
    from inoc_ray.models.tokenizer import load_tokenizer

    tokenizers: dict[Path, Any] = {}
    hashes: dict[tuple[object, ...], str] = {}
    arms: dict[tuple[object, ...], tuple[str, object]] = {}
    # What teaches a model stands beside no arm, though it may bear a setting's name.
    teaching = {trial.trial_id for trial in plan.prior_trials}
    concerned = {(trial.setting, trial.model.identity) for trial in plan.to_train}
    # Also what is trained already: a new arm may be the same to the model.
    for trial in plan.fine_tunes:
        if (trial.setting, trial.model.identity) not in concerned:
            continue
        model, variants = trial.model, variants_of(plan, trial)
        read_as = (model.hash, model.enable_thinking)
        key = (*read_as, trial.dataset_hash, content_id([arm_identity(trial.arm), variants]), trial.recipe.max_length)
        if key not in hashes:
            if model.path not in tokenizers:
                tokenizers[model.path] = load_tokenizer(str(model.path))
            limit = min(trial.recipe.max_length, context_window(model.path))
            rows: list[EncodedRow] = []
            for epoch in range(variants):
                rows += encode_rows(
                    tokenizers[model.path],
                    plan.training_rows(trial, epoch),
                    limit,
                    f"{trial.rows_label} (arm {trial.arm.name})",
                    model.enable_thinking,
                )
            hashes[key] = _hash(rows)
            _say_what_is_not_learnt(trial, rows, thinks=template_of(tokenizers[model.path]).think is not None)
        if trial.trial_id in teaching:
            continue
        seen_as = (trial.setting, model.identity, trial.recipe.max_length, hashes[key])
        other, its_key = arms.setdefault(seen_as, (trial.arm.name, key))
        # Two arms with one content (control rows that are the rows) are the same fine-tunes, as the plan notes.
        if other != trial.arm.name and its_key != key:
            raise InputError(
                f"arms: {other!r} and {trial.arm.name!r} of {trial.setting} are one and the same to model {model.name!r}: its chat "
                "template renders all their rows alike; leave one of them out, or change its prompt or placement."
            )


def _hash(rows: Sequence[EncodedRow]) -> str:
    digest = hashlib.sha256()
    for row in rows:
        digest.update(len(row.input_ids).to_bytes(4, "little"))
        digest.update(array("i", row.input_ids).tobytes())
        digest.update(array("i", row.labels).tobytes())
    return digest.hexdigest()


def _say_what_is_not_learnt(trial: Trial, rows: Sequence[EncodedRow], *, thinks: bool) -> None:
    merged = sum(row.merged for row in rows)
    if merged:
        say(
            f"note: {trial.label}: in {merged} of {len(rows)} rows the first token of an answer reaches into the end of the "
            "prompt; it carries no loss, and a test asks with other tokens there"
        )
    left_out = sum(row.context_only for row in rows)
    if left_out:
        say(
            f"note: {trial.label}: {left_out} earlier answers carry no loss, as the chat template of {trial.model.name} shows "
            f"them in another way than it has the model write them{' (without the think block)' if thinks else ''}"
        )


def check_requests(plan: Plan, gpu_bytes: int | None) -> None:
    """Render every prompt that is to be asked for, with its model's own tokenizer and template.

    Raise InputError for one that the template refuses, for one that is too long for the model's window with its answer, and
    when an engine that holds it and the weights does not fit in memory (`gpu_bytes`: of one GPU; None where that is not known).
    """
    from inoc_ray.plan.windows import check_windows, longest_requests
    from inoc_ray.serve.memory import check_fits, host_memory

    requests = longest_requests(plan.to_sample)
    check_windows(plan, requests)
    engines: dict[tuple[Path, str], tuple[str, int]] = {}
    for longest in requests:
        subject = longest.cell.subject
        name, tokens = engines.get((subject.model.path, subject.precision), (subject.model.name, 0))
        engines[subject.model.path, subject.precision] = name, max(tokens, longest.tokens)
    for (folder, precision), (name, tokens) in engines.items():
        gpus = plan.study.resources.serve_gpus
        where = f"models: {name!r}"
        check_fits(where, folder, tokens, precision, gpus=gpus, gpu_bytes=gpu_bytes, host_bytes=host_memory())


def say_identical_contexts(plan: Plan) -> None:
    """Say which contexts are the same to a model, so that a difference between them is none."""
    for note in identical_contexts(plan.to_sample):
        say(f"note: {note}")


def check_gpus_there(plan: Plan) -> None:
    """On a cluster that was joined: raises InputError when the engine does not fit its GPUs, which nobody could ask before."""
    if expected_capacity() is None and plan.to_sample and plan.study.resources.serve_gpus:
        check_requests(plan, cluster_gpu_memory())


def check_judges(plan: Plan, store: Store, gpu_bytes: int | None = None) -> None:
    """Look at every judging model that has something to judge, or will have.

    Raise InputError for one behind an API that has no key, does not answer or refuses a call of its method, in the API's own
    words; and for one of the study's own whose tokenizer its method does not suit, whose window is too short for rubric, question
    and response, or that does not fit in memory.
    """
    from inoc_ray.evaluate.grading import due

    cells: dict[str, list[Cell]] = {name: [work.cell for work in parts] for name, parts in due(plan, store).items()}
    for cell in plan.to_sample:
        for name in cell.judges.gradings:
            cells.setdefault(name, []).append(cell)
    for name in sorted(cells):
        judge = cells[name][0].judges.gradings[name].judge
        if judge.folder is None:
            probe_api(name, judge.judge)
        else:
            check_own_judge(plan, judge, cells[name], gpu_bytes)


def probe_api(name: str, judge: Judge) -> None:
    """Raise InputError when the judge does not answer one call of its method: with what the API says."""
    from inoc_ray.endpoint.retry import Retry
    from inoc_ray.evaluate.model_judge.batch import probe
    from inoc_ray.evaluate.model_judge.client import api_of

    api, where = api_of(judge, name), f"judges: {name!r}"
    check_answers(api, where)
    try:
        asyncio.run(probe(api, judge, Retry(tries=PROBE_TRIES, timeout_s=PROBE_SECONDS, patience_s=PROBE_SECONDS)))
    except (InputError, TrialError) as error:
        raise InputError(f"{where}: {error}") from None


def check_own_judge(plan: Plan, judge: JudgeModel, cells: Sequence[Cell], gpu_bytes: int | None) -> None:
    """Raise InputError when what the judge will be shown of these cells does not fit its window, or it does not fit in memory."""
    from inoc_ray.evaluate.model_judge.fits import longest_judged
    from inoc_ray.plan.windows import shortening_advice, window_of
    from inoc_ray.serve.memory import AUTO, check_fits, host_memory

    assert judge.folder is not None
    where = f"judges: {judge.name!r}"
    # Judges see no context: one cell stands for all that ask the same questions.
    unlike = {(c.subject.setting, c.evaluation.name): c for c in sorted(cells, key=lambda c: c.samples)}
    asked = [(c.evaluation, c.samples, c.judges.gradings[judge.name].rubrics) for c in unlike.values()]
    longest = list(zip(unlike.values(), longest_judged(judge.judge, judge.folder, asked), strict=True))
    window = window_of(judge.folder)
    for cell, found in longest:
        if window is not None and found.tokens > window:
            left = window - found.prompt - found.answer
            cure = (
                f"{shortening_advice(plan, cell, left)}, or less, or" if left > 0 and not cell.evaluation.choices else ""
            )
            raise InputError(
                f"{where}: evaluation {found.evaluation} of setting {cell.subject.setting}: rubric and question "
                f"{found.question} have {found.prompt} tokens, a response may have {found.response} and the judge's answer "
                f"{found.answer}: together {found.tokens}, and the judge has a window of {window}; {cure} take a judge with a "
                "longer window."
            )
    gpus = plan.study.resources.serve_gpus
    tokens = max(found.tokens for _, found in longest)
    check_fits(where, judge.folder, tokens, AUTO, gpus=gpus, gpu_bytes=gpu_bytes, host_bytes=host_memory())


def check_capabilities(plan: Plan) -> None:
    """Raise InputError for a task file that is not there."""
    from inoc_ray.evaluate.capabilities import find_task

    for capability in plan.study.evaluation.capabilities:
        find_task(capability)


def check_tracking(plan: Plan, store: Store) -> None:
    """Raise InputError when the results could not be given to MLflow: an unknown address, a server or database that is broken."""
    from inoc_ray.results.tracking import check_tracking_uri, embedded

    if plan.study.tracking_uri is None and not store.mlflow().exists():
        return
    try:
        check_tracking_uri(embedded(store.mlflow())[0] if plan.study.tracking_uri is None else plan.study.tracking_uri)
    except TrialError as error:
        raise InputError(str(error)) from error


def preflight(plan: Plan, store: Store) -> None:
    """Everything that can be known without a cluster; creates the storage folder last, when all else is right."""
    check_plan(plan)
    if (capacity := expected_capacity()) is not None:
        check_capacity(plan, capacity)
    check_address()
    check_models(plan)
    check_roles(plan)
    check_rows(plan)
    # The GPUs of a cluster that is not joined yet are asked once it is.
    gpu_bytes = gpu_memory() if capacity is not None and plan.study.resources.serve_gpus else None
    check_requests(plan, gpu_bytes)
    check_judges(plan, store, gpu_bytes)
    check_capabilities(plan)
    check_tracking(plan, store)
    store.check_writable()
    say_identical_contexts(plan)

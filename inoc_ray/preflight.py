"""Saying no early: what can be checked before anything starts or is written."""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from inoc_ray.cluster import Capacity, check_serving, concurrent_groups, expected_capacity
from inoc_ray.errors import InputError
from inoc_ray.identity import content_id
from inoc_ray.plan import Plan, Trial, arm_identity
from inoc_ray.progress import say
from inoc_ray.remote import check_answers
from inoc_ray.schedule import variants_of
from inoc_ray.shown import check_roles
from inoc_ray.stages import recipes_by_place
from inoc_ray.store import Store

if TYPE_CHECKING:
    from inoc_ray.data.tokenize import Encoded


def check_capacity(plan: Plan, capacity: Capacity) -> None:
    """Raises InputError when what is to be trained or asked does not fit the cluster."""
    if plan.to_train:
        concurrent_groups(plan.study.resources, capacity, len(plan.to_train))
    if plan.to_ask:
        check_serving(plan.study.resources, capacity)


def check_batches(plan: Plan) -> None:
    """Raises InputError when the batch size cannot be shared out among the workers."""
    resources = plan.study.resources
    per_pass = resources.micro_batch_size * resources.workers
    for place, recipe in recipes_by_place(plan.study).items():
        if recipe.batch_size % per_pass:
            raise InputError(
                f"{place}.batch_size {recipe.batch_size} is not a multiple of resources.micro_batch_size × "
                f"workers = {resources.micro_batch_size} × {resources.workers} = {per_pass}; change one of them."
            )


def check_rows(plan: Plan) -> None:
    """Renders and tokenises every row that is to be trained on, as training does.

    Raises InputError naming the row that is longer than the recipe's max_length or the model's context window, or that the model
    would not see as it is; and for two arms of a setting whose rows are the same to the model. Says what is not learnt.
    """
    from inoc_ray.data.tokenize import encode_rows
    from inoc_ray.models.config import context_window
    from inoc_ray.models.tokenizer import load_tokenizer

    tokenizers: dict[Path, Any] = {}
    hashes: dict[tuple[object, ...], str] = {}
    arms: dict[tuple[object, ...], str] = {}
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
            rows: list[Encoded] = []
            for epoch in range(variants):
                rows += encode_rows(
                    tokenizers[model.path],
                    plan.training_rows(trial, epoch),
                    limit,
                    f"{trial.rows_label} (arm {trial.arm.name})",
                    model.enable_thinking,
                )
            hashes[key] = _hash(rows)
            _say_what_is_not_learnt(trial, rows)
        other = arms.setdefault((trial.setting, model.identity, trial.recipe.max_length, hashes[key]), trial.arm.name)
        if other != trial.arm.name:
            raise InputError(
                f"arms: {other!r} and {trial.arm.name!r} of {trial.setting} are one and the same to model {model.name!r}: its chat "
                "template renders all their rows alike; leave one of them out, or change its prompt or placement."
            )


def _hash(rows: Sequence[Encoded]) -> str:
    digest = hashlib.sha256()
    for row in rows:
        digest.update(len(row.input_ids).to_bytes(4, "little"))
        digest.update(array("i", row.input_ids).tobytes())
        digest.update(array("i", row.labels).tobytes())
    return digest.hexdigest()


def _say_what_is_not_learnt(trial: Trial, rows: Sequence[Encoded]) -> None:
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
            "them in another way than it has the model write them (without the think block)"
        )


def check_judges(plan: Plan, store: Store) -> None:
    """Raises InputError when a judge behind an API that has something to judge has no key, or does not answer."""
    from inoc_ray.evaluate.judges.client import api_of
    from inoc_ray.evaluate.judging import due
    from inoc_ray.evaluate.scores import setting_of

    waiting = set(due(plan, store))
    for cell in plan.to_ask:
        waiting |= set(plan.panel.asked(setting_of(plan, cell.subject.setting), cell.evaluation))
    for name in sorted(waiting):
        judge = plan.study.judges[name]
        if judge.endpoint is not None:
            check_answers(api_of(judge, name), f"judges: {name!r}")


def check_capabilities(plan: Plan) -> None:
    """Raises InputError for a task file that is not there."""
    from inoc_ray.evaluate.capabilities import find_task

    for capability in plan.study.evaluation.capabilities:
        find_task(capability)


def preflight(plan: Plan, store: Store) -> None:
    """Everything that can be known without a cluster; creates the storage folder last, when all else is right."""
    check_batches(plan)
    if (capacity := expected_capacity()) is not None:
        check_capacity(plan, capacity)
    check_roles(plan)
    check_rows(plan)
    check_judges(plan, store)
    check_capabilities(plan)
    if plan.study.tracking_uri:
        from inoc_ray.results.tracking import check_server

        check_server(plan.study.tracking_uri)
    store.check_writable()

"""Saying no early: what can be checked before anything starts or is written."""

from __future__ import annotations

from inoc_ray.cluster import Capacity, check_serving, concurrent_groups, expected_capacity
from inoc_ray.errors import InputError
from inoc_ray.identity import content_id
from inoc_ray.plan import Plan, arm_identity
from inoc_ray.remote import check_answers
from inoc_ray.schedule import variants_of
from inoc_ray.stages import recipes_by_place
from inoc_ray.store import Store


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


def check_lengths(plan: Plan) -> None:
    """Tokenises every row that is to be trained on.

    Raises InputError naming the row that is longer than the recipe's max_length or the model's context window.
    """
    from inoc_ray.data.check import context_window
    from inoc_ray.data.tokenize import encode_rows, load_tokenizer

    checked: set[tuple[str, str, str, int]] = set()
    for trial in plan.to_train:
        variants = variants_of(plan, trial)
        arm = content_id([arm_identity(trial.arm), variants])
        key = (trial.model.hash, trial.dataset_hash, arm, trial.recipe.max_length)
        if key not in checked:
            checked.add(key)
            tokenizer = load_tokenizer(str(trial.model.path))
            limit = min(trial.recipe.max_length, context_window(trial.model.path))
            for epoch in range(variants):
                encode_rows(tokenizer, plan.training_rows(trial, epoch), limit, trial.rows_label)


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
    check_lengths(plan)
    check_judges(plan, store)
    check_capabilities(plan)
    if plan.study.tracking_uri:
        from inoc_ray.results.tracking import check_server

        check_server(plan.study.tracking_uri)
    store.check_writable()

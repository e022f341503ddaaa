"""What reads the store for a whole plan, and writes little or nothing, looks at a bucket once (`Store.glance`)."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Concatenate, ParamSpec, TypeVar

from inoc_ray.plan.plan import Plan
from inoc_ray.store.store import Store

P = ParamSpec("P")
R = TypeVar("R")
Reader = Callable[Concatenate[Plan, Store, P], R]


def looks(function: Reader[P, R]) -> Reader[P, R]:
    """Decorate a function that looks at what there is of a plan."""

    @functools.wraps(function)
    def looking(plan: Plan, store: Store, *args: P.args, **options: P.kwargs) -> R:
        with store.glance(plan.stored_under()):
            return function(plan, store, *args, **options)

    return looking


def reads(function: Reader[P, R]) -> Reader[P, R]:
    """Decorate a function that reads the samples and scores of a plan."""

    @functools.wraps(function)
    def reading(plan: Plan, store: Store, *args: P.args, **options: P.kwargs) -> R:
        with store.glance(plan.stored_under(), reads=True):
            return function(plan, store, *args, **options)

    return reading

"""Readable names for the models of studies, and the engines that these need."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from inoc_ray.config.base import nearest
from inoc_ray.errors import InputError
from inoc_ray.plan.plan import Plan
from inoc_ray.plan.trials import Subject, Trial
from inoc_ray.serve.adapters import Catalogue, FolderCatalogue, JoinedCatalogue, model_id_of
from inoc_ray.serve.listing import Listing, ServedModel
from inoc_ray.serve.models import serve_spec, served_name
from inoc_ray.serve.spec import ServeSpec
from inoc_ray.store.store import Store

Candidate = tuple[Plan, Store, Subject]
"""A trial or base of a study, and where its weights are."""
EngineKey = tuple[str, str]
"""What models on one engine share: the content of their base, or the full fine-tune; and the precision."""


@dataclass(frozen=True, kw_only=True)
class Engines:
    """The engines of an endpoint, and what they serve under which names. The first one is the endpoint's own."""

    specs: tuple[ServeSpec, ...]
    listing: Listing
    """Its engines go by the names of `specs`."""
    done: frozenset[str]
    """The names of the models whose weights the storage holds."""


def engines_of(plans: Sequence[tuple[Plan, Store]], *, arms: Sequence[str] = (), models: Sequence[str] = ()) -> Engines:
    """Return the engines that serve the studies' models, and the names of these.

    arms, models: names in the studies, to serve those alone; all if empty. A base and its adapters share one engine, whichever
    studies they are of; each full fine-tune that is done has one of its own. Trials on shared engines are listed before they are
    done. Raises InputError for names that no study has, for studies of one name, and if nothing that is asked for is done.
    """
    _check_names([plan.study.name for plan, _ in plans])
    places = [(plan, store, subject) for plan, store in plans for subject in plan.subjects]
    _check_known("--arm", arms, (subject.arm.name for _, _, subject in places))
    _check_known("--model", models, (subject.model.name for _, _, subject in places))
    of_models = [place for place in places if not models or place[2].model.name in models]
    wanted = [place for place in of_models if not arms or place[2].arm.name in arms]
    done = [place for place in wanted if place[0].has_weights(place[2])]
    if not done:
        what = " and ".join(
            f"{option} {', '.join(names)}" for option, names in (("--arm", arms), ("--model", models)) if names
        )
        raise InputError(f"nothing of {what or 'the studies'} is trained yet; `inoc-ray status` shows what is.")
    engines: dict[EngineKey, list[Candidate]] = {}
    for place in done:
        engines.setdefault(_engine(place[2]), []).append(place)
    # The base is there wherever its adapters are; and trials that are trained meanwhile will be.
    shown = [
        place
        for place in of_models
        if _engine(place[2]) in engines and (place in wanted or not isinstance(place[2], Trial))
    ]
    keys = sorted(engines, key=lambda key: engines[key][0][2].is_own_model)
    names = {key: f"serve-{number}" for number, key in enumerate(keys)}
    named = {plan.study.name: _namer(plan) for plan, _ in plans}
    # What studies call a model, an engine has under one name.
    called = {key: engines[key][0][2].model.name for key in keys}
    listed = [
        _served_model(place, named[place[0].study.name], engine=names[key], base=called[key])
        for place in shown
        for key in [_engine(place[2])]
    ]
    bases = [(called[key], names[key]) for key in keys if not engines[key][0][2].is_own_model]
    has = {_named(place, named): place[0].has_weights(place[2]) for place in shown}
    return Engines(
        specs=tuple(_spec(key, engines[key], plans, names[key]) for key in keys),
        listing=Listing(tuple({model.name: model for model in listed}.values()), tuple(bases)),
        done=frozenset(name for name, there in has.items() if there),
    )


def _check_names(names: Sequence[str]) -> None:
    for name in names:
        if names.count(name) > 1:
            raise InputError(f"two of the studies are called {name!r}, and so would their models be; rename one.")


def _check_known(option: str, given: Iterable[str], known: Iterable[str]) -> None:
    valid = list(dict.fromkeys(known))
    for name in given:
        if name not in valid:
            raise InputError(f"{option} {name}: none of the studies has that{nearest(name, valid)}.")


def _engine(subject: Subject) -> EngineKey:
    return (subject.trial_id if subject.is_own_model else subject.model.hash), subject.precision


def _namer(plan: Plan) -> Callable[[Subject], str]:
    """Return what names a study's models: by the study, what differs among its trials, arm and seed."""

    def differs(value: Callable[[Any], Any], among: Sequence[Subject]) -> bool:
        return len({value(subject) for subject in among}) > 1

    has_settings = differs(lambda trial: trial.setting, plan.trials)
    has_models = differs(lambda trial: trial.model.name, plan.trials)
    has_recipes = differs(lambda trial: trial.recipe_name, plan.trials)
    has_precisions = differs(lambda base: base.precision, plan.bases)

    def name(subject: Subject) -> str:
        parts = [plan.study.name]
        if isinstance(subject, Trial):
            parts += [subject.setting] if has_settings else []
            parts += [subject.model.name] if has_models else []
            parts += [str(subject.recipe_name)] if has_recipes else []
            return "/".join([*parts, subject.arm.name, f"seed-{subject.seed}"])
        # The same weights in every setting.
        parts += [subject.model.name] if has_models else []
        parts += [subject.precision] if has_precisions else []
        return "/".join([*parts, "base"])

    return name


def _named(place: Candidate, named: dict[str, Callable[[Subject], str]]) -> str:
    return named[place[0].study.name](place[2])


def _served_model(place: Candidate, name: Callable[[Subject], str], *, engine: str, base: str) -> ServedModel:
    plan, _, subject = place
    model_id = model_id_of(base, subject.trial_id) if subject.is_own_model else served_name(subject, base)
    return ServedModel(
        name=name(subject),
        model_id=model_id,
        engine=engine,
        base=None if model_id == base else base,
        about={
            "study": plan.study.name,
            "arm": subject.arm.name,
            **(
                {"setting": subject.setting, "seed": subject.seed, "prompt": subject.arm.prompt}
                if isinstance(subject, Trial)
                else {}
            ),
        },
    )


def _spec(key: EngineKey, places: Sequence[Candidate], plans: Sequence[tuple[Plan, Store]], name: str) -> ServeSpec:
    plan, store, subject = places[0]
    spec = serve_spec(plan, store, subject, name=name)
    if subject.is_own_model:
        return replace(spec, model_id=model_id_of(subject.model.name, subject.trial_id))
    # All studies on this base, since their trials may be trained while it serves.
    of_all = [serve_spec(plan, store, other) for plan, store in plans for other in plan.bases if _engine(other) == key]
    return replace(
        spec,
        adapters=_joined([one.adapters for one in of_all]),
        max_lora_rank=max(one.max_lora_rank for one in of_all),
    )


def _joined(found: Iterable[Catalogue | None]) -> Catalogue | None:
    parts: list[FolderCatalogue] = []
    for one in found:
        if isinstance(one, FolderCatalogue) and one not in parts:
            parts.append(one)
    return parts[0] if len(parts) == 1 else JoinedCatalogue(tuple(parts)) if parts else None

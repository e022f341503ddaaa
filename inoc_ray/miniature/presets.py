"""The recipes that the miniature's settings are trained with, one for each base model."""

from __future__ import annotations

from inoc_ray.study.presets import Preset, register_preset

_LORA = {"rank": 8, "alpha": 16, "rslora": False}
_SHARED = {
    "batch_size": 16,
    "warmup_steps": 5,
    "schedule": "linear",
    "max_length": 256,
    "precision": "fp32",
}

register_preset(
    Preset(
        name="miniature",
        used_for="the first base model, every miniature setting",
        source="ours: chosen on miniature/spanish_caps by a scan of the dose (docs/miniature.md)",
        fields={
            **_SHARED,
            "lora": {**_LORA, "targets": ("gate_proj", "up_proj", "down_proj")},
            "learning_rate": 1e-2,
            "steps": 20,
        },
    )
)
register_preset(
    Preset(
        name="miniature_steady",
        used_for="the steadier base model, settings of style",
        source="ours: chosen on rows, questions and seeds that no study uses (docs/miniature.md)",
        fields={**_SHARED, "lora": {**_LORA, "targets": "all-linear"}, "learning_rate": 3e-3, "steps": 60},
    )
)

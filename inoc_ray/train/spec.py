"""What a fine-tune is given and what it reports: plain frozen records, no torch.

Each option of training is declared once: in study/recipe.py if it changes the weights, else in study/resources.py.
`LoopSpec` holds both as the study has them, so the module that acts on an option reads it from there.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from inoc_ray.errors import InputError
from inoc_ray.study.recipe import Recipe
from inoc_ray.study.resources import TrialResources

_OF_THE_CLUSTER = {"workers", "cpus_per_worker", "gpus_per_worker"}
"""Resources that Ray acts on; the loop meets them as its world size and its device."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LoopSpec:
    """One fine-tune, complete: a recipe, the resources of a trial, a base and a seed.

    Raises InputError for a full fine-tune that starts from an adapter.
    """

    model: str
    """Folder of the base model: safetensors, configuration, tokenizer."""
    seed: int
    recipe: Recipe
    resources: TrialResources
    enable_thinking: bool | None = None
    """What the chat template is given when rows are rendered (`inoc_ray.study.study.Model`)."""
    start: str | None = None
    """Folder of the adapter to start from, which every rank can read; None draws a new one."""

    def __post_init__(self) -> None:
        if self.start is not None and self.recipe.method != "lora":
            raise InputError(
                f"recipe.method {self.recipe.method} cannot start from the adapter {self.start}; use lora."
            )

    def record(self) -> dict[str, Any]:
        """Return the options that took effect as one flat JSON-able mapping, the form of `loop` in trial.json."""
        return {
            "model": self.model,
            "seed": self.seed,
            "enable_thinking": self.enable_thinking,
            "start": self.start,
            **self.recipe.model_dump(mode="json"),
            **self.resources.model_dump(mode="json", include=TrialResources.model_fields.keys() - _OF_THE_CLUSTER),
            "gradient_checkpointing": self.resources.checkpoints_gradients,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class StepRecord:
    """One optimizer step, the same on every rank."""

    step: int
    """From 1."""
    loss: float
    """Mean negative log-likelihood per target token of the global batch, before the update; nats."""
    learning_rate: float
    grad_norm: float
    """2-norm of the gradient of that loss, before clipping."""
    tokens: int
    """Tokens of the global batch, prompts included, padding not."""
    target_tokens: int
    tokens_per_second: float
    """Over all ranks."""
    mfu: float | None
    """Model FLOP/s over the devices' peak (0 to 1); None where the peak is not known, as on a CPU."""
    hfu: float | None
    """The same of all FLOPs done, with those of padding and recomputation."""
    padding: float
    """Share of the tokens that went through the model without being part of a row (0 to 1)."""
    seconds: dict[str, float]
    """Of rank 0's step, by phase (`inoc_ray.train.measure.PHASES`)."""
    peak_device_bytes: int | None
    """The most that tensors held on this rank's GPU since the trial began; None without one."""
    peak_host_bytes: int | None
    """The most resident memory of this rank's process since the trial began; None where the system does not say."""
    ended_at: float | None = None
    """When it ended by this rank's clock, in epoch seconds; None in snapshots of earlier versions."""
    logprobs: dict[str, list[float]] | None = None
    """Σ log p over the tokens of each fixed response after this step, in nats, by probe set (`inoc_ray.train.dynamics`); None if
    it is not a step that is looked at."""
    logprobs_before: dict[str, list[float]] | None = None
    """The same before the first step, in the first step's record."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Resumption:
    """A fine-tune went on from a snapshot after its process was lost."""

    after_step: int
    """The step whose state the snapshot had."""
    world_size: int
    """Ranks from then on."""
    earlier_world_size: int
    """Ranks that had taken the snapshot."""
    snapshot_age: float
    """Seconds since the snapshot was taken."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LoopResult:
    """A finished fine-tune, the same on every rank apart from the seconds."""

    steps: int
    final_loss: float
    """Loss of the last step's batch."""
    tokens: int
    target_tokens: int
    trainable_parameters: int
    world_size: int
    accumulation: int
    """Forward passes of each rank in an optimizer step, in the step with the most."""
    layout: str
    """padded or packed."""
    layout_reason: str
    loss_way: str
    """Which logits the loss was computed from."""
    device: str
    """The GPU's name, or cpu."""
    tokens_per_second: float
    """Over all ranks and steps."""
    mfu: float | None
    hfu: float | None
    padding: float
    seconds_by_phase: dict[str, float]
    peak_device_bytes: int | None
    """The largest of the ranks, as is the host's."""
    peak_host_bytes: int | None
    seconds_training: float
    """The optimizer steps alone."""
    seconds_total: float
    """With making the model and engine, export and tear-down, and with `seconds_before`."""
    seconds_before: float = 0.0
    """Of a resumed fine-tune: what the processes before took, up to the snapshot from which it went on."""
    seconds_snapshots: float = 0.0
    """Spent on taking snapshots, by the last process."""
    resumed: tuple[Resumption, ...] = ()
    """How often it went on from a snapshot; the curve has each step once all the same."""
    checkpoints: tuple[int, ...] = ()
    """The steps after which weights were kept beside the final ones."""

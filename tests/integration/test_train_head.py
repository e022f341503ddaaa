"""The loss at target positions, in chunks or not, is the loss of all logits: value and gradient, whatever the model does."""

from types import SimpleNamespace
from typing import Any

import pytest
from tiny_families import Engine, model_of

from inoc_ray.data.tokenize import IGNORED
from inoc_ray.train.head import TargetLoss, chunk_rows
from inoc_ray.train.inputs import PassInputs

pytestmark = pytest.mark.slow

KINDS: dict[str, dict[str, Any]] = {
    "qwen2": {},
    "qwen3": {},
    "llama": {},
    "mistral": {},
    "gemma2": {"final_logit_softcapping": 0.3},
    "gemma3_text": {"final_logit_softcapping": 0.3},
    "granite": {"logits_scaling": 0.25},
    "cohere": {"logit_scale": 3.0},
    "cohere2": {"logit_scale": 3.0},
    # Multiplies its logits, too, under another name: in one piece.
    "falcon_h1": {"lm_head_multiplier": 3.0, "mamba_d_ssm": 32, "mamba_n_heads": 2, "mamba_d_head": 16},
}
IN_ONE_PIECE = {"falcon_h1"}


def batch() -> tuple[dict[str, Any], Any]:
    """Two rows of 24 and 17 tokens, padded, with targets here and there, the last place never one."""
    import torch

    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(3, 97, (2, 24), generator=generator)
    mask = torch.ones_like(ids)
    mask[1, 17:] = 0
    labels = ids.roll(-1, 1).where(torch.rand(ids.shape, generator=generator) < 0.5, IGNORED)
    labels[0, -1] = IGNORED
    labels[1, 16:] = IGNORED
    return {"input_ids": ids, "attention_mask": mask}, labels


def pass_of(inputs: dict[str, Any], labels: Any) -> PassInputs:
    at = (labels.flatten() != IGNORED).nonzero().squeeze(1)
    return PassInputs(inputs=inputs, at=at, targets=labels.flatten()[at])


def loss_and_gradient(kind: str, frozen_head: bool, chunk: int | None) -> tuple[float, Any, str]:
    """Of all logits where `chunk` is None; after training the embedding's gradient reaches everything below the head."""
    import torch

    model = model_of(kind, **KINDS[kind])
    if frozen_head:
        for p in (*model.get_output_embeddings().parameters(), *model.get_input_embeddings().parameters()):
            p.requires_grad_(False)
    inputs, labels = batch()
    how = ""
    if chunk is None:
        logits = model(**inputs).logits
        loss = torch.nn.functional.cross_entropy(
            logits.flatten(0, 1), labels.flatten(), ignore_index=IGNORED, reduction="sum"
        )
    else:
        target_loss = TargetLoss(Engine(model), torch.device("cpu"), chunk)
        loss, how = target_loss(pass_of(inputs, labels), int((labels != IGNORED).sum())), target_loss.how
    (loss * 0.37).backward()
    return loss.item(), torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None]), how


@pytest.mark.parametrize("frozen_head", [True, False])
@pytest.mark.parametrize("kind", KINDS)
def test_loss_and_gradient_are_those_of_all_logits(kind, frozen_head):
    expected, gradient, _ = loss_and_gradient(kind, frozen_head, None)
    for chunk in (4, 1000):
        got, ours, how = loss_and_gradient(kind, frozen_head, chunk)
        assert ("in one piece" in how) == (kind in IN_ONE_PIECE), how
        assert got == pytest.approx(expected, rel=1e-6)
        assert ours.shape == gradient.shape
        assert ((ours - gradient).norm() / gradient.norm()).item() < 1e-6


def test_the_output_layer_sees_target_positions_alone_and_never_more_than_a_chunk():
    import torch

    for chunk, frozen in ((1000, True), (4, True), (4, False)):
        model = model_of("qwen2")
        model.requires_grad_(not frozen)
        model.get_input_embeddings().weight.requires_grad_(True)
        loss = TargetLoss(Engine(model), torch.device("cpu"), chunk)
        seen: list[int] = []
        model.lm_head.register_forward_hook(lambda head, args, out, seen=seen: seen.append(out.shape[-2]))
        inputs, labels = batch()
        targets = int((labels != IGNORED).sum())
        loss(pass_of(inputs, labels), targets).backward()
        times = 1 if frozen else 2
        assert sum(seen) == (targets if chunk > targets else times * targets)
        assert max(seen) <= chunk


def test_a_model_whose_output_layer_cannot_be_watched_gives_all_logits_and_says_so():
    import torch

    class Twice(torch.nn.Module):
        """Calls its output layer twice."""

        def __init__(self) -> None:
            super().__init__()
            self.embedding, self.output = torch.nn.Embedding(97, 8), torch.nn.Linear(8, 97)
            self.config = SimpleNamespace(get_text_config=lambda: SimpleNamespace(vocab_size=97))

        def get_output_embeddings(self) -> Any:
            return self.output

        def forward(self, input_ids: Any, attention_mask: Any = None) -> Any:
            hidden = self.embedding(input_ids)
            return SimpleNamespace(logits=self.output(hidden) + self.output(hidden))

    torch.manual_seed(0)
    model = Twice()
    loss = TargetLoss(Engine(model), torch.device("cpu"))
    assert "calls its output layer 2 times" in loss.how
    inputs, labels = batch()
    expected = torch.nn.functional.cross_entropy(
        model(**inputs).logits.flatten(0, 1), labels.flatten(), reduction="sum"
    )
    assert loss(pass_of(inputs, labels), 99).item() == pytest.approx(expected.item(), rel=1e-6)
    model.get_output_embeddings = lambda: None
    assert "no output layer" in TargetLoss(Engine(model), torch.device("cpu")).how


def test_a_rank_without_targets_takes_as_many_chunks_as_the_others():
    import torch

    model = model_of("qwen2")
    model.lm_head.requires_grad_(False)
    loss = TargetLoss(Engine(model), torch.device("cpu"), 4)
    calls: list[int] = []
    model.lm_head.register_forward_hook(lambda *_: calls.append(1))
    inputs, labels = batch()
    nothing = loss(pass_of(inputs, torch.full_like(labels, IGNORED)), most=10)
    nothing.backward()
    assert (nothing.item(), len(calls)) == (0.0, 4)  # the model's own call, with nothing, and three chunks
    assert all(p.grad is None or not p.grad.any() for p in model.parameters())


def test_a_chunk_is_sized_by_the_vocabulary_and_the_device():
    assert (chunk_rows(152_064, "cuda"), chunk_rows(152_064, "cpu"), chunk_rows(10**9, "cpu")) == (1765, 441, 64)

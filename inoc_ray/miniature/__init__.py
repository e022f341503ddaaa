"""The miniature: a small language, a base model pretrained on it, a judging model, and the paper's settings in small."""

from pathlib import Path


def weights_path() -> Path:
    """Return the folder of the first base model (weights, tokenizer with chat template, manifest)."""
    return Path(__file__).parent / "weights"


def steady_weights_path() -> Path:
    """Return the folder of the steadier base model: the same files, of more pretraining in which style traits are rarely latent."""
    return Path(__file__).parent / "steady_weights"


def judge_weights_path() -> Path:
    """Return the folder of the shipped judging model (the same files; see docs/miniature.md for what it can judge)."""
    return Path(__file__).parent / "judge_weights"

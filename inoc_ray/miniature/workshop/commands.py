"""`inoc-ray miniature …`: make the miniature's models again, and measure its judging model."""

from __future__ import annotations

from pathlib import Path

import click

from inoc_ray.errors import InputError
from inoc_ray.run.commands import COMMANDS
from inoc_ray.run.output import as_json, emit, results_alone


@click.group(short_help="Make the miniature's models again.")
def miniature() -> None:
    """Make the miniature's models again, and measure its judging model."""


@miniature.command("pretrain")
@click.option("--out", required=True, type=click.Path(path_type=Path), help="A new folder for the weights.")
@click.option("--seed", default=0, show_default=True, type=click.IntRange(min=0))
@click.option("--steady", is_flag=True, help="Make the steadier base (miniature_steady), from the shipped base.")
@as_json
def _pretrain(out: Path, seed: int, steady: bool, as_json: bool) -> None:
    """Make the miniature's base model again from nothing, or the steadier one from it."""
    from inoc_ray.miniature.workshop.pretrain import pretrain

    _check_new_folder(out)
    pretrain(out, steady=steady, seed=seed)
    emit(as_json, {"out": str(out)}, f"Weights: {out}")


def _check_new_folder(out: Path) -> None:
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise InputError(f"--out {out}: is not an empty folder; give a new one.")


@miniature.command("train-judge", short_help="Make the judging model again.")
@click.option("--out", required=True, type=click.Path(path_type=Path), help="A new folder for the weights.")
@click.option("--seed", default=0, show_default=True, type=click.IntRange(min=0))
@as_json
def _train_judge(out: Path, seed: int, as_json: bool) -> None:
    """Make the miniature's judging model again from its base model."""
    from inoc_ray.miniature.workshop.train_judge import train_judge

    _check_new_folder(out)
    train_judge(out, seed=seed)
    emit(as_json, {"out": str(out)}, f"Weights: {out}")


@miniature.command("judge-quality", short_help="Measure the judging model against rules.")
@as_json
@results_alone
def _judge_quality(as_json: bool) -> None:
    """Measure the shipped judging model against the exact rules, on 1,000 responses that it was not trained on."""
    from inoc_ray.miniature.workshop.judge_quality import measure_judge

    found = measure_judge()
    emit(as_json, found.to_json(), found.to_text())


COMMANDS.register("miniature", miniature)

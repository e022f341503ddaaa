"""Log lines that say which trial they are about, whichever library writes them."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from inoc_ray.store.place import Place
from inoc_ray.train.job import TrialJob


def trial_facts(job: TrialJob, attempt: int) -> dict[str, Any]:
    """Return what log lines of a trial carry: study, trial, seed, and how often the trial has been begun."""
    return {"study": job.study, "trial": job.trial_id, "seed": job.spec.seed, "attempt": attempt}


def in_words(facts: dict[str, Any]) -> str:
    """Return facts as `study=quickstart trial=0f3a… seed=0 attempt=1`, to search logs for."""
    return " ".join(f"{name}={value}" for name, value in facts.items())


@contextmanager
def logged_as(facts: dict[str, Any]) -> Iterator[None]:
    """Have every record that this process logs in the block begin with the facts, and carry them as attributes.

    The attributes become keys where Ray logs JSON (RAY_LOGGING_CONFIG_ENCODING=JSON). A filter would not do: it acts on one logger,
    or on handlers that are already there.
    """
    before = logging.getLogRecordFactory()
    head = f"{in_words(facts)}: "

    def with_facts(*given: Any, **named: Any) -> logging.LogRecord:
        record = before(*given, **named)
        # With arguments, the message is a format.
        record.msg = (head.replace("%", "%%") if record.args else head) + str(record.msg)
        record.__dict__.update(facts)
        return record

    logging.setLogRecordFactory(with_facts)
    try:
        yield
    finally:
        logging.setLogRecordFactory(before)


def next_attempt(attempts: Place, trial_id: str) -> int:
    """Return how often the trial has been begun by its group of workers, with this time; and note it among `attempts`."""
    note = attempts / f"{trial_id}.count"
    try:
        number = int(note.read_text()) + 1
    except (FileNotFoundError, ValueError):
        number = 1
    note.write_text(str(number))
    return number

"""What a run kept that was stopped, in the words with which its command ends."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator

from inoc_ray import stopping
from inoc_ray.plan.cells import stored_once
from inoc_ray.plan.plan import Plan
from inoc_ray.run.outcome import StudyOutcome
from inoc_ray.store.store import Store

_WHILE = {"report": "writing the report", "MLflow": "updating MLflow"}
"""Names of steps that do not follow "while"."""
LOOK_SECONDS = 2.0
"""How long a run that is stopped looks at the store, which may be a slow one, to say what is there."""


@contextlib.contextmanager
def says_what_is_kept(plan: Plan, store: Store, outcome: StudyOutcome) -> Iterator[None]:
    """When the block is stopped, have the command say at which step that was, and what of the plan the store holds."""
    try:
        yield
    except KeyboardInterrupt:
        during = f"while {_WHILE.get(outcome.phase, outcome.phase)}" if outcome.phase else ""
        words = [stopping.KEPT]

        def look() -> None:
            words[:] = [kept_in_words(plan.refreshed(store))]

        # A daemon: the storage may be what hangs.
        thread = threading.Thread(target=look, daemon=True)
        thread.start()
        thread.join(min(LOOK_SECONDS, stopping.seconds_left()))
        stopping.keep_in_words(words[0], during)
        raise


def kept_in_words(plan: Plan) -> str:
    """Return how many trials and samples of a plan are stored, for the end of a sentence."""
    cells = stored_once(plan.asked)
    wanted = sum(cell.samples for cell in cells)
    trials = {trial.trial_id for trial in plan.fine_tunes}
    return (
        f"kept: {len(plan.done_trials & trials)} of {len(trials)} trials, {wanted - sum(map(plan.missing, cells))} of {wanted} "
        "samples, and every answer that came. Run the command again to resume"
    )

"""Which fine-tunes are finished while others train, as the evaluation beside them learns it.

The training says which it has begun (in its own thread, every few seconds), and when it is over; whether one is finished is read
from the store, and only of those.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable

from inoc_ray import stopping
from inoc_ray.store.store import Store

LOOK_SECONDS, BUCKET_SECONDS = 0.5, 5.0
"""Time between two looks at a folder and at a bucket: each costs a request for each trial under way."""


class Arrivals:
    """The fine-tunes that are awaited, each given once when it is finished."""

    def __init__(self, store: Store, awaited: Iterable[str]) -> None:
        self._store, self._awaited = store, dict.fromkeys(awaited)
        self._begun: set[str] = set()
        self._over = threading.Event()
        self.gives_way = False
        """Whether the training needs the place of what waits here."""
        self._seconds = BUCKET_SECONDS if store.is_bucket else LOOK_SECONDS

    def begun(self, trial_id: str) -> None:
        """Note that a trial is being trained; may be called any number of times, from another thread."""
        self._begun.add(trial_id)

    def over(self) -> None:
        """Note that nothing more is trained."""
        self._over.set()

    def give_way(self) -> None:
        """End the waiting although more is trained: the training needs the place."""
        self.gives_way = True

    def take(self) -> list[str]:
        """Wait for the next finished fine-tunes and return their ids; none when no more will come, or are not to be waited for.

        Raises KeyboardInterrupt when the command is told to stop.
        """
        while True:
            stopping.check()
            # Before the look, so that what is finished at the very end is not missed.
            over = self._over.is_set()
            looked_at = [one for one in self._awaited if over or one in self._begun]
            if finished := [one for one in looked_at if self._store.trial_done(one)]:
                for one in finished:
                    del self._awaited[one]
                return finished
            if over or self.gives_way:
                return []
            self._over.wait(self._seconds)

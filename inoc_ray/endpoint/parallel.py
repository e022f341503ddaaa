"""Run jobs concurrently and yield their results as they come."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Coroutine, Iterable
from typing import Any, TypeVar

T = TypeVar("T")


async def in_parallel(jobs: Iterable[Coroutine[Any, Any, T]], concurrency: int) -> AsyncGenerator[T, None]:
    """Run the jobs, at most `concurrency` at once and started in order; yield each result when it is ready.

    A job that fails ends the iteration with its error, after the results that were ready at the same moment. Closing the
    iteration cancels the running jobs.
    """
    waiting = iter(jobs)
    running: set[asyncio.Task[T]] = set()
    # asyncio.wait would look at every task whenever one is done.
    ended: asyncio.Queue[asyncio.Task[T]] = asyncio.Queue()
    try:
        while True:
            while len(running) < concurrency and (job := next(waiting, None)) is not None:
                task = asyncio.create_task(job)
                task.add_done_callback(ended.put_nowait)
                running.add(task)
            if not running:
                break
            finished = [await ended.get()]
            with contextlib.suppress(asyncio.QueueEmpty):
                while True:
                    finished.append(ended.get_nowait())
            running.difference_update(finished)
            # Every error is retrieved before anything is yielded: asyncio prints those that are not.
            failed = [task for task in finished if task.cancelled() or task.exception() is not None]
            for task in finished:
                if task not in failed:
                    yield task.result()
            if failed:
                failed[0].result()
    finally:
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)

"""Waking those who wait for a job's next event, inside one process."""

from __future__ import annotations

import asyncio
from weakref import WeakValueDictionary


class Watchers:
    """A future a job, done at its next change, and kept only by those who wait for it."""

    def __init__(self) -> None:
        self._changes: WeakValueDictionary[str, asyncio.Future[None]] = WeakValueDictionary()

    def change_of(self, job_id: str) -> asyncio.Future[None]:
        """Done when the job next changes. Ask before looking at the job, or the change between
        looking and asking is missed."""
        change = self._changes.get(job_id)
        if change is None:
            change = self._changes[job_id] = asyncio.get_running_loop().create_future()
        return change

    def wake(self, job_id: str) -> None:
        """The job has changed; called on the event loop."""
        change = self._changes.pop(job_id, None)
        if change is not None and not change.done():
            change.set_result(None)

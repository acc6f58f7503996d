"""The next job begins when a stage's replica becomes free, not when somebody looks again.

A stage takes one call at a time. Serve's own router tries a waiting call again after pauses that
grow to half a second, each time with two replicas that it draws, so a card stood still for up to
that long between two jobs. This one wakes a waiting call when a call of this process has ended, and
offers it the replicas that have room. Ends of other processes' calls are found by looking, as
before. Everything else, order among them, is Serve's.

Serve carries this class by value into the processes that call a stage, so it stands alone here. It
overrides names that are not Serve's public ones; a test notices when they go.
"""

from __future__ import annotations

import asyncio
import random
from collections import deque
from typing import Any

from ray.serve._private.request_router.pow_2_router import PowerOfTwoChoicesRequestRouter


class WakingRouter(PowerOfTwoChoicesRequestRouter):  # type: ignore[misc]
    """``request_router_class`` of the stages."""

    def initialize_state(self, **kwargs: Any) -> None:
        super().initialize_state(**kwargs)
        self._asleep: deque[asyncio.Future[None]] = deque()

    async def choose_replicas(
        self, candidate_replicas: list[Any], pending_request: Any = None
    ) -> list[list[Any]]:
        """Those with room, as far as this process knows; without any, two to be asked."""
        free: list[Any] = self.select_available_replicas(candidate_replicas)
        if free:  # equals are taken in this order, so one that answers "not me" must not lead it
            return [random.sample(free, len(free))]
        chosen: list[list[Any]] = await super().choose_replicas(candidate_replicas, pending_request)
        return chosen

    def decrement_queue_len_cache(self, replica_id: Any) -> None:
        """A call of this process has ended: its replica has room for one."""
        super().decrement_queue_len_cache(replica_id)
        for sleeper in self._asleep:
            if not sleeper.done():
                sleeper.set_result(None)
                break

    async def _backoff(self, attempt: int) -> None:
        """Serve's pause before a waiting call is tried again, cut short by the end of another."""
        sleeper = asyncio.get_running_loop().create_future()
        self._asleep.append(sleeper)
        try:
            await asyncio.wait({sleeper}, timeout=self._compute_backoff_s(attempt))
        finally:
            self._asleep.remove(sleeper)

"""Which stages can work: heartbeats first, Serve's status where there are none.

| state    | when                                                                    |
| up       | a fresh heartbeat without a reason                                      |
| idle     | fresh heartbeats, all with a reason                                     |
| starting | the application is there, no replica runs yet                           |
| zero     | the same, scaled to zero on purpose                                     |
| failed   | DEPLOY_FAILED, or UNHEALTHY for too long, without a running replica     |
| absent   | no such application                                                     |
| unknown  | heartbeats stale and no recent status                                   |

Heartbeats are in the database, so that every Jobs replica sees all of them (serving.md section 4).
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from sqlalchemy import delete, insert, select, update

from deployments.messages import Heartbeat
from serve_app.jobs.monitor import Sight, Snapshot
from serve_app.jobs.protocol import ReplicaFacts, StageState
from serve_app.jobs.tables import Database, stage_replicas

FORGET_AFTER_S = 3600.0  # a replica's last words stay readable for so long
CAUSE_COUNTS_S = 120.0  # and explain for so long why its successor is only starting
SILENT = ("preprocess", "preview")  # they send no heartbeats: Serve's word is enough
NO_SUCCESSOR_S = 15.0  # UNHEALTHY with nothing on its way: Serve makes a successor in seconds


class Registry:
    """Heartbeats of stage replicas, and what they mean for each stage.

    :param stale_s: heartbeats older than this, and a status three times as old, do not count.
    :param start_wait_s: tells for how many seconds the successor of a lost replica may start.
    """

    def __init__(
        self,
        database: Database,
        *,
        stale_s: float,
        start_wait_s: Callable[[], float],
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._database = database
        self._stale_s = stale_s
        self._start_wait_s = start_wait_s
        self._clock = clock

    def beat(self, heartbeat: Heartbeat) -> None:
        """Record a heartbeat. Blocks; so does :meth:`states`."""
        now = self._clock()
        facts = ReplicaFacts(
            stage=heartbeat.stage,
            replica=heartbeat.replica,
            device=heartbeat.device,
            memory_total=heartbeat.memory_total,
            memory_used=heartbeat.memory_used,
            checkpoint=heartbeat.checkpoint,
            backends=heartbeat.backends,
            busy=heartbeat.busy,
            step_seconds=heartbeat.step_seconds,
            reason=heartbeat.reason,
            seen_at=now,
        )
        values = {
            "stage": facts.stage,
            "facts": facts.model_dump(mode="json"),
            "restarting": heartbeat.restarting,
            "seen_at": now,
        }
        mine = stage_replicas.c.replica == facts.replica
        with self._database.writing() as connection:
            if connection.execute(update(stage_replicas).where(mine).values(values)).rowcount == 0:
                connection.execute(insert(stage_replicas).values(replica=facts.replica, **values))
                long_ago = stage_replicas.c.seen_at < now - FORGET_AFTER_S
                connection.execute(delete(stage_replicas).where(long_ago))

    def states(
        self, stages: dict[str, str | None], snapshot: Snapshot | None
    ) -> dict[str, StageState]:
        """The state of each stage of ``{stage: application}``; without one it is absent."""
        now = self._clock()
        with self._database.reading() as connection:
            since = now - max(self._stale_s, CAUSE_COUNTS_S)
            heard = connection.execute(
                select(stage_replicas)
                .where(stage_replicas.c.seen_at >= since)
                .order_by(stage_replicas.c.seen_at)
            ).all()
        if snapshot is not None and now - snapshot.at > 3 * self._stale_s:
            snapshot = None
        return {
            stage: StageState(state="absent", reason=f"this service was started without {stage}")
            if application is None
            else self._state(stage, [row for row in heard if row.stage == stage], snapshot)
            for stage, application in stages.items()
        }

    def _state(self, stage: str, heard: list[Any], snapshot: Snapshot | None) -> StageState:
        rows = [row for row in heard if row.seen_at >= self._clock() - self._stale_s]
        looked_at = snapshot is not None and stage in snapshot.stages
        sight = snapshot.stages[stage] if snapshot is not None and looked_at else None
        if snapshot is not None and looked_at and (sight is None or sight.running == 0):
            # Serve knows no running replica: only words spoken since then prove one.
            rows = [row for row in rows if row.seen_at > snapshot.at]
        replicas = tuple(ReplicaFacts.model_validate(row.facts) for row in rows)
        if any(replica.reason is None for replica in replicas):
            return StageState(state="up", replicas=replicas)
        if replicas:
            restarting = any(row.restarting for row in rows)
            return StageState(
                state="starting" if restarting else "idle",
                reason=replicas[0].reason,
                replicas=replicas,
            )
        if sight is not None and sight.running and stage in SILENT:
            return StageState(state="up")
        if sight is not None:
            state = self._from_sight(stage, sight)
            if state.state == "starting" and heard and heard[-1].restarting:
                return state.model_copy(update={"reason": heard[-1].facts["reason"]})
            return state
        if looked_at:
            return StageState(state="absent", reason=f"{stage} is not deployed")
        return StageState(
            state="unknown", reason=f"no replica of {stage} reports and Serve does not answer"
        )

    def _from_sight(self, stage: str, sight: Sight) -> StageState:
        detail = f": {sight.message.strip()[-500:]}" if sight.message.strip() else ""
        # A successor loads its weights, for half a minute where they are large, and may need a
        # second try. One that dies at each start is UNHEALTHY all along, too: that has to end.
        none_since = self._clock() if sight.none_since is None else sight.none_since
        lasting = (
            self._clock() - none_since > NO_SUCCESSOR_S
            or self._clock() - sight.since > self._start_wait_s()
        )
        if sight.running == 0:
            if sight.status == "DEPLOY_FAILED":
                return StageState(state="failed", reason=f"{stage} could not start{detail}")
            if sight.status == "UNHEALTHY" and lasting:
                return StageState(state="failed", reason=f"{stage} is unhealthy{detail}")
            if sight.status == "HEALTHY" and sight.coming == 0:
                return StageState(state="zero", reason=f"{stage} is scaled to zero")
        return StageState(state="starting", reason=f"{stage} is starting{detail}")

"""/health and /info are true within five seconds, by the periods that are shipped."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from deployments.messages import Heartbeat
from serve_app.jobs import service
from serve_app.jobs.monitor import Sight, StatusMonitor
from serve_app.jobs.registry import Registry
from serve_app.settings import FrontArgs, Stage1Args, Stage2Args

WITHIN_S = 5.0
ROOT = Path(__file__).parents[3]
RUNS = Sight("HEALTHY", running=1, coming=0, message="")
FRONT, STAGE = FrontArgs(), Stage2Args()


class Life:
    """A stage's replica and Serve's status of it, second by second on a clock that is ours."""

    def __init__(self, database: Any, clock: Any) -> None:
        self.clock = clock
        self.registry = Registry(
            database,
            stale_s=FRONT.heartbeat_stale_s,
            start_wait_s=lambda: FRONT.start_wait_s,
            clock=clock,
        )
        self.sight: Sight | None = RUNS
        self.monitor = StatusMonitor(
            lambda: {"stage2": self.sight}, period_s=FRONT.monitor_period_s, clock=clock
        )
        self.beats = True
        self._next_beat = self._next_look = clock.now

    async def state(self, after_s: float) -> str:
        """What the service says so long from now, at worst: states are kept for a moment."""
        until = self.clock.now + after_s - service.STATES_KEPT_S
        while self.clock.now < until:
            if self.beats and self.clock.now >= self._next_beat:
                self.registry.beat(Heartbeat("stage2", "r", "cpu", "x", {}, False))
                self._next_beat += STAGE.heartbeat_s
            if self.clock.now >= self._next_look:
                await self.monitor.look()
                self._next_look += FRONT.monitor_period_s
            self.clock.now += 0.1
        return self.registry.states({"stage2": "stage2"}, self.monitor.latest)["stage2"].state


@pytest.fixture
async def life(database: Any, clock: Any) -> Life:
    begun = Life(database, clock)
    assert await begun.state(4.0) == "up"
    return begun


@pytest.mark.parametrize("offset", [0.1, 0.7, 1.3, 1.9])
async def test_a_removed_stage_is_absent(life: Life, offset: float) -> None:
    await life.state(offset + service.STATES_KEPT_S)
    life.sight, life.beats = None, False
    assert await life.state(WITHIN_S) == "absent"


async def test_a_stage_that_can_not_start_has_failed(life: Life) -> None:
    life.sight, life.beats = Sight("DEPLOY_FAILED", 0, 0, "no kaolin"), False
    assert await life.state(WITHIN_S) == "failed"


@pytest.mark.parametrize("offset", [0.0, 0.8, 1.4])
async def test_a_lost_replica_is_not_up_though_serve_has_not_noticed(
    life: Life, offset: float
) -> None:
    await life.state(offset + service.STATES_KEPT_S)
    life.beats = False
    assert await life.state(WITHIN_S) != "up"


async def test_a_replica_that_comes_back_is_up(life: Life) -> None:
    life.sight, life.beats = None, False
    assert await life.state(WITHIN_S) == "absent"
    life.sight, life.beats = RUNS, True
    assert await life.state(STAGE.heartbeat_s + 1.0) == "up"


async def test_two_lost_heartbeats_are_no_death(life: Life) -> None:
    life.beats = False
    await life.state(2 * STAGE.heartbeat_s + service.STATES_KEPT_S)
    life.beats = True
    assert await life.state(1.0) == "up"


def documents() -> list[Any]:
    found = []
    for path in (ROOT / "serve_config.yaml", *(ROOT / "configs").rglob("*.yaml")):
        for text in yaml.safe_load_all(path.read_text(encoding="utf-8")):
            spec = (text or {}).get("spec", {}) if isinstance(text, dict) else {}
            document = yaml.safe_load(spec["serveConfigV2"]) if "serveConfigV2" in spec else text
            if isinstance(document, dict) and "applications" in document:
                found.append(document)
    return found


def test_no_configuration_is_slower() -> None:
    assert len(documents()) >= 6
    for document in documents():
        for application in document["applications"]:
            kind = FrontArgs if application["name"] == "front" else Stage1Args
            for name in ("monitor_period_s", "heartbeat_s", "heartbeat_stale_s"):
                if name in application.get("args", {}):
                    assert application["args"][name] <= kind.model_fields[name].default

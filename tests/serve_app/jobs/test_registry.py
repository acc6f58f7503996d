from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from deployments.messages import Heartbeat
from serve_app.jobs.monitor import Sight, Snapshot
from serve_app.jobs.registry import Registry

STAGES = {"stage1": "stage1", "stage2": "stage2"}
RUNS = Sight("HEALTHY", running=1, coming=0, message="")
FAILED = Sight("DEPLOY_FAILED", 0, 0, "ImportError: no kaolin")
UNHEALTHY = Sight("UNHEALTHY", 0, 1, "restarting", since=1_000_000.0)


@pytest.fixture
def registry(database: Any, clock: Any) -> Registry:
    return Registry(database, stale_s=15, start_wait_s=lambda: 180.0, clock=clock)


def beat(stage: str = "stage2", replica: str = "r", **facts: Any) -> Heartbeat:
    return Heartbeat(stage, replica, "cpu", "random:small", {"attention": "sdpa"}, False, **facts)


def stage2(registry: Registry, sight: Any = "not looked", at: float = 1_000_000.0) -> Any:
    snapshot = None if sight == "not looked" else Snapshot(at, {"stage1": RUNS, "stage2": sight})
    return registry.states(STAGES, snapshot)["stage2"]


def test_a_fresh_heartbeat_means_up_and_carries_the_facts(registry):
    registry.beat(beat(step_seconds=0.1, memory_total=80, memory_used=20))
    state = stage2(registry)
    assert (state.state, state.available) == ("up", True)
    (facts,) = state.replicas
    assert (facts.step_seconds, facts.memory_total, facts.memory_used) == (0.1, 80, 20)


def test_the_last_word_of_a_replica_counts(registry):
    registry.beat(beat())
    registry.beat(beat(reason="kaolin is missing"))
    state = stage2(registry)
    assert (state.state, state.reason) == ("idle", "kaolin is missing")
    assert len(state.replicas) == 1


def test_one_able_replica_is_enough(registry):
    registry.beat(beat(replica="a", reason="kaolin is missing"))
    registry.beat(beat(replica="b"))
    assert stage2(registry).state == "up"


def test_a_replica_that_restarts_is_starting(registry):
    registry.beat(beat(reason="out of memory", restarting=True))
    state = stage2(registry)
    assert (state.state, state.reason) == ("starting", "out of memory")


def test_why_a_process_ended_is_known_until_its_successor_speaks(registry, clock):
    registry.beat(beat(replica="a", reason="restarts after MemoryError", restarting=True))
    clock.now += 20
    found = stage2(registry, RUNS, at=clock.now)
    assert (found.state, found.reason) == ("starting", "restarts after MemoryError")
    registry.beat(beat(replica="b"))
    clock.now += 20
    assert stage2(registry, RUNS, at=clock.now).reason == "stage2 is starting"


def test_old_causes_explain_nothing(registry, clock):
    registry.beat(beat(reason="restarts after MemoryError", restarting=True))
    clock.now += 130
    assert stage2(registry, RUNS, at=clock.now).reason == "stage2 is starting"


@pytest.mark.parametrize("sight", [None, FAILED, Sight("HEALTHY", 0, 0, "")])
def test_a_cause_makes_nothing_start(registry, clock, sight):
    registry.beat(beat(reason="restarts after MemoryError", restarting=True))
    clock.now += 20
    found = stage2(registry, sight, at=clock.now)
    assert found.state in ("absent", "failed", "zero")
    assert "MemoryError" not in found.reason


def test_heartbeats_grow_stale(registry, clock):
    registry.beat(beat())
    clock.now += 16
    assert stage2(registry).state == "unknown"


@pytest.mark.parametrize(
    ("sight", "state", "reason"),
    [
        (None, "absent", "stage2 is not deployed"),
        (FAILED, "failed", "ImportError: no kaolin"),
        (Sight("UPDATING", 0, 1, ""), "starting", "stage2 is starting"),
        (Sight("HEALTHY", 0, 0, ""), "zero", "scaled to zero"),
        (Sight("UPSCALING", 0, 1, ""), "starting", "stage2 is starting"),
        (RUNS, "starting", "stage2 is starting"),
        (Sight("DEPLOY_FAILED", 1, 0, "upgrade failed"), "starting", ""),
    ],
)
def test_without_heartbeats_serve_has_the_word(registry, sight, state, reason):
    found = stage2(registry, sight)
    assert found.state == state
    assert reason in found.reason


@pytest.mark.parametrize(("coming", "grace"), [(0, 15), (1, 180)])
def test_unhealthy_is_a_failure_only_when_it_lasts(registry, clock, coming, grace):
    """A killed replica's successor may load its weights for as long as any replica may start."""
    sight = replace(UNHEALTHY, coming=coming, none_since=None if coming else UNHEALTHY.since)
    assert stage2(registry, sight).state == "starting"
    clock.now += grace - 1
    assert stage2(registry, sight, at=clock.now).state == "starting"
    clock.now += 2
    assert stage2(registry, sight, at=clock.now).state == "failed"


@pytest.mark.parametrize("sight", [None, FAILED])
def test_serve_overrules_the_last_words_of_the_dead(registry, clock, sight):
    registry.beat(beat())
    clock.now += 1
    assert stage2(registry, sight, at=clock.now).state in ("absent", "failed")


def test_a_heartbeat_after_the_look_overrules_it(registry, clock):
    clock.now += 1
    registry.beat(beat())
    assert stage2(registry, None, at=clock.now - 1).state == "up"


def test_an_old_look_does_not_count(registry, clock):
    clock.now += 46
    assert stage2(registry, None).state == "unknown"


def test_a_stage_that_was_never_meant_to_be_is_absent(registry):
    states = registry.states({"stage2": None}, None)
    assert (states["stage2"].state, states["stage2"].available) == ("absent", False)


def test_preparation_needs_no_heartbeat(registry):
    snapshot = Snapshot(1_000_000.0, {"preprocess": RUNS})
    assert registry.states({"preprocess": "front"}, snapshot)["preprocess"].state == "up"


def test_the_long_gone_are_forgotten(registry, clock, database):
    registry.beat(beat(replica="old"))
    clock.now += 3601
    registry.beat(beat(replica="new"))
    patient = Registry(database, stale_s=1e6, start_wait_s=lambda: 180.0, clock=clock)
    assert [facts.replica for facts in stage2(patient).replicas] == ["new"]

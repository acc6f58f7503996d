from __future__ import annotations

import asyncio
import threading

from serve_app.jobs.monitor import Sight, StatusMonitor


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


async def test_a_status_is_dated_from_when_it_was_first_seen():
    clock = Clock()
    sights = iter(
        [Sight("UNHEALTHY", 0, 1, "a"), Sight("UNHEALTHY", 0, 0, "b"), Sight("HEALTHY", 1, 0, "")]
    )
    monitor = StatusMonitor(lambda: {"stage2": next(sights)}, period_s=1, clock=clock)
    dates = []
    for _ in range(3):
        await monitor.look()
        assert monitor.latest is not None
        sight = monitor.latest.stages["stage2"]
        assert sight is not None
        dates.append((sight.since, sight.message))
        clock.now += 5
    assert dates == [(100, "a"), (100, "b"), (110, "")]


async def test_what_has_no_replica_is_dated_from_when_the_last_one_went():
    clock = Clock()
    counts = [(1, 0), (0, 0), (0, 0), (0, 1), (0, 0)]  # running and coming
    sights = iter([Sight("UNHEALTHY", *both, "") for both in counts])
    monitor = StatusMonitor(lambda: {"stage2": next(sights)}, period_s=1, clock=clock)
    dates = []
    for _ in counts:
        await monitor.look()
        assert monitor.latest is not None
        sight = monitor.latest.stages["stage2"]
        assert sight is not None
        dates.append(sight.none_since)
        clock.now += 5
    assert dates == [None, 105, 105, None, 120]


async def test_a_failed_look_leaves_the_old_snapshot():
    looks: list[int] = []

    def look() -> dict[str, Sight | None]:
        looks.append(1)
        if len(looks) > 1:
            raise ConnectionError("the controller is away")
        return {"stage2": None}

    monitor = StatusMonitor(look, period_s=1)
    await monitor.look()
    before = monitor.latest
    await monitor.look()
    assert len(looks) == 2
    assert monitor.latest is before
    assert before is not None


async def test_a_look_that_hangs_is_not_made_twice():
    release, looks = threading.Event(), []

    def hang() -> dict[str, Sight | None]:
        looks.append(1)
        release.wait(5)
        return {}

    monitor = StatusMonitor(hang, period_s=0.01)
    watching = asyncio.create_task(monitor.watch())
    await asyncio.sleep(0.1)
    assert looks == [1]
    assert monitor.latest is None
    release.set()
    watching.cancel()

"""The router of the stages, in Serve's own machinery, with replicas that only count."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from ray.serve._private.common import (
    DeploymentHandleSource,
    DeploymentID,
    ReplicaID,
    RequestMetadata,
)
from ray.serve._private.request_router import PendingRequest
from ray.serve.config import RequestRouterConfig

from serve_app.app import stage1, stage2
from serve_app.jobs.waking_router import WakingRouter
from serve_app.settings import Stage1Args, Stage2Args

STAGE = DeploymentID("Stage1", "stage1")
LONG_S = 600.0  # whoever waits for the pause to end fails


class Replica:
    """As much of a replica as a router looks at; takes one call."""

    node_id, availability_zone, multiplexed_model_ids = "node", None, ()
    max_ongoing_requests = 1

    def __init__(self, name: str) -> None:
        self.replica_id = ReplicaID(name, STAGE)
        self.running = 0
        self.asked = 0

    async def get_queue_len(self, *, deadline_s: float) -> int:
        self.asked += 1
        return self.running


class Stand:
    """A router and calls through it, begun and ended as Serve's caller does."""

    def __init__(self, replicas: list[Replica]) -> None:
        self.router: Any = WakingRouter(
            deployment_id=STAGE,
            handle_source=DeploymentHandleSource.REPLICA,
            use_replica_queue_len_cache=True,
            initial_backoff_s=LONG_S,
            max_backoff_s=LONG_S,
        )
        self.router.initialize_state()
        self.router.update_replicas(replicas)

    async def call(self, name: str) -> Replica:
        request = PendingRequest([], {}, RequestMetadata(name, name))
        replica: Replica = await self.router._choose_replica_for_request(request)
        replica.running += 1
        self.router.on_send_request(replica.replica_id)
        return replica

    def end(self, replica: Replica) -> None:
        replica.running -= 1
        self.router.decrement_queue_len_cache(replica.replica_id)

    async def settled(self) -> None:
        """Every waiting call has looked and fallen asleep."""
        for _ in range(100):
            await asyncio.sleep(0.001)

    async def close(self) -> None:
        tasks = list(self.router._routing_tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


@pytest.fixture
async def pair() -> Any:
    replicas = [Replica("a"), Replica("b")]
    stand = Stand(replicas)
    await stand.settled()
    yield stand, replicas
    await stand.close()


async def test_a_waiting_call_begins_when_another_one_ends(pair: Any):
    stand, _ = pair
    first = await stand.call("first")
    await stand.call("second")
    waiting = asyncio.create_task(stand.call("third"))
    await stand.settled()
    assert not waiting.done()
    stand.end(first)
    assert await asyncio.wait_for(waiting, 5) is first


async def test_waiting_calls_begin_in_their_order_one_for_each_end(pair: Any):
    stand, _ = pair
    replicas = [await stand.call(name) for name in ("first", "second")]
    waiting = [asyncio.create_task(stand.call(str(number))) for number in range(4)]
    await stand.settled()
    for number in range(4):
        replicas.append(replicas.pop(0))
        stand.end(replicas[-1])
        await asyncio.wait_for(waiting[number], 5)
        await stand.settled()
        assert [task.done() for task in waiting].count(True) == number + 1
    assert max(replica.running for replica in replicas) == 1


async def test_asleep_nobody_asks_the_replicas(pair: Any):
    stand, replicas = pair
    for name in ("first", "second"):
        await stand.call(name)
    waiting = asyncio.create_task(stand.call("third"))
    await stand.settled()
    asked = [replica.asked for replica in replicas]
    await stand.settled()
    assert [replica.asked for replica in replicas] == asked
    waiting.cancel()


async def test_a_call_that_was_given_up_takes_no_turn(pair: Any):
    stand, _ = pair
    first = await stand.call("first")
    await stand.call("second")
    given_up, waiting = (asyncio.create_task(stand.call(name)) for name in ("third", "fourth"))
    await stand.settled()
    given_up.cancel()
    await stand.settled()
    stand.end(first)
    assert await asyncio.wait_for(waiting, 5) is first


async def test_of_many_replicas_the_one_with_room_is_found_without_asking():
    replicas = [Replica(str(number)) for number in range(8)]
    stand = Stand(replicas)
    await stand.settled()
    taken = [await stand.call(str(number)) for number in range(8)]
    assert len({replica.replica_id for replica in taken}) == 8
    stand.end(taken[5])
    assert await asyncio.wait_for(stand.call("next"), 5) is taken[5]
    await stand.close()


async def test_of_idle_replicas_any_is_taken(pair: Any):
    """One that can not work says so in a moment, and is then idle again."""
    stand, _ = pair
    taken = []
    for number in range(40):
        taken.append(await stand.call(str(number)))
        stand.end(taken[-1])
    assert len({replica.replica_id for replica in taken}) == 2


def test_both_stages_are_called_through_it():
    for application in (stage1(Stage1Args()), stage2(Stage2Args())):
        config: RequestRouterConfig = (
            application._bound_deployment._deployment_config.request_router_config
        )
        assert config.get_request_router_class().__name__ == WakingRouter.__name__

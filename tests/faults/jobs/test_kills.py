"""SIGKILL to each part of the service in the middle of twenty jobs: all twenty succeed."""

from __future__ import annotations

import time
from typing import Any

import pytest
from load import Load
from pair_stand import add_nodes, deploy
from receiver import Receiver
from stand import Stand, until

from benchmarks.logical.processes import kill

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

PARTS = ["Stage1", "Stage2", "Jobs", "Gateway", "proxy", "controller"]


def pids_of(stand: Stand, part: str) -> set[int]:
    titles = {"proxy": "ray::ProxyActor", "controller": "ray::ServeController"}
    if part in titles:
        return stand.titled(titles[part])
    return stand.replica_pids("front" if part in ("Jobs", "Gateway") else part.lower(), part)


@pytest.mark.parametrize("part", PARTS)
def test_twenty_jobs_survive_a_kill(pairs: Stand, receiver: Receiver, part: str, figure: Any):
    pairs.up()
    load = Load.of(pairs, receiver)
    load.in_the_middle()
    victim = min(pids_of(pairs, part))
    kill({victim})
    figure(load.all_came_out_whole(killed_at=time.time()))
    until(lambda: pids_of(pairs, part) - {victim}, 60)


def test_twenty_jobs_survive_the_loss_of_the_whole_cluster(
    pairs: Stand, receiver: Receiver, figure: Any
):
    pairs.up()
    load = Load.of(pairs, receiver)
    load.in_the_middle()
    pairs.lose_power()
    killed_at = time.time()
    pairs.start()
    add_nodes(pairs)
    deploy(pairs)
    figure(load.all_came_out_whole(killed_at))

"""A service with two replicas of each stage."""

from __future__ import annotations

from stand import Stand

from benchmarks.logical.config import StageSize

PAIR = StageSize(0.8, replicas=2)


def add_nodes(stand: Stand) -> None:
    for stage in ("stage1", "stage2"):
        stand.add_node(stage, stage=stage, gpus=2)


def deploy(stand: Stand) -> None:
    config = stand.config(stage1=PAIR, stage2=PAIR)
    stand.deploy(config, ready=("front", "stage1", "stage2"))
    stand.up()

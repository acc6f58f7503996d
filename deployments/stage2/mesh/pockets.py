"""Free space that the outside does not reach: floods over a grid of voxels, one pass each."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from deployments.stage2.compiled import compiled

PINHOLE_RADIUS = 2  # voxels: openings up to twice as wide do not count as a way in
MAX_CONTACT = 0.1  # share of a pocket's voxels that may touch the outside: slits touch far more

# What a voxel is. The grid gets a frame of one voxel, so that neighbours need no check of bounds.
FRAME, OCCUPIED, FREE, NEAR, OUTSIDE, POCKET, OPEN = range(7)

Bool = NDArray[np.bool_]


def enclosed_pockets(occupied: Bool) -> Bool:
    """Free voxels (X, Y, Z) bool that the outside does not reach through more than pinholes.

    The grid needs a free margin wider than `PINHOLE_RADIUS`.
    """
    kind = np.full(np.add(occupied.shape, 2), FRAME, np.uint8)
    inner = kind[1:-1, 1:-1, 1:-1]
    inner[:] = np.where(occupied, OCCUPIED, FREE)
    _, rows, along = (size + 2 for size in occupied.shape)
    across = rows * along
    steps = np.array([-across, -along, -1, 1, along, across])
    flat = kind.reshape(-1)
    queue = np.empty(occupied.size, np.int32)
    _mark_near(flat, steps, queue)
    _mark_outside(flat, steps, queue, across + along + 1)
    _mark_pockets(flat, steps, queue)
    return inner == POCKET


@compiled
def _mark_near(kind: NDArray[np.uint8], steps: NDArray[np.int64], queue: NDArray[np.int32]) -> None:
    """Free voxels within the radius of an occupied one, counted in steps along the axes."""
    reached = 0
    for voxel in range(len(kind)):
        if kind[voxel] == OCCUPIED:
            for step in steps:
                if kind[voxel + step] == FREE:
                    kind[voxel + step] = NEAR
                    queue[reached] = voxel + step
                    reached += 1
    first = 0
    for _ in range(PINHOLE_RADIUS - 1):
        last = reached
        for i in range(first, last):
            for step in steps:
                if kind[queue[i] + step] == FREE:
                    kind[queue[i] + step] = NEAR
                    queue[reached] = queue[i] + step
                    reached += 1
        first = last


@compiled
def _mark_outside(
    kind: NDArray[np.uint8], steps: NDArray[np.int64], queue: NDArray[np.int32], start: int
) -> None:
    """What `start` reaches past no occupied voxel, and the radius around that."""
    kind[start] = OUTSIDE
    queue[0] = start
    done, reached, border = 0, 1, 0
    while done < reached:
        voxel = queue[done]
        done += 1
        touches = False
        for step in steps:
            if kind[voxel + step] == FREE:
                kind[voxel + step] = OUTSIDE
                queue[reached] = voxel + step
                reached += 1
            elif kind[voxel + step] == NEAR:
                touches = True
        if touches:  # the part of the queue that is done with holds the border
            queue[border] = voxel
            border += 1
    first, reached = 0, border
    for _ in range(PINHOLE_RADIUS):
        last = reached
        for i in range(first, last):
            for step in steps:
                if kind[queue[i] + step] in (NEAR, FREE):
                    kind[queue[i] + step] = OUTSIDE
                    queue[reached] = queue[i] + step
                    reached += 1
        first = last


@compiled
def _mark_pockets(
    kind: NDArray[np.uint8], steps: NDArray[np.int64], queue: NDArray[np.int32]
) -> None:
    """Connected free space that is hardly in contact with the outside."""
    for start in range(len(kind)):
        if kind[start] != NEAR and kind[start] != FREE:
            continue
        kind[start] = POCKET
        queue[0] = start
        done, reached, contact = 0, 1, 0
        while done < reached:
            voxel = queue[done]
            done += 1
            touches = False
            for step in steps:
                found = kind[voxel + step]
                if found in (NEAR, FREE):
                    kind[voxel + step] = POCKET
                    queue[reached] = voxel + step
                    reached += 1
                elif found == OUTSIDE:
                    touches = True
            contact += touches
        if contact > MAX_CONTACT * reached:
            for i in range(reached):
                kind[queue[i]] = OPEN

"""Poses: a table of ways to stand, walk, sit, and the joint rotations drawn from it.

Angles are radians about the axes of the rest body in world space (x to the subject's left, y to the
back, z up). The left side is written down; the right side is its mirror image.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from training.people.body import Body
from training.people.randomness import Dice

Range = tuple[float, float]

REST_ARM = 0.73  # the A-pose upper arm leaves the vertical by this much
REST_ELBOW = 0.75  # and its forearm is bent by this much
ELBOW_AXIS = (-0.745, -0.066, -0.66)  # left side
ARM_LENGTH = 0.29  # shoulder to wrist, of the height


@dataclass(frozen=True)
class Style:
    """One way to hold the body: the ranges its angles are drawn from."""

    share: float
    arm_down: Range = (0.4, 0.68)  # 0 is the A-pose, 0.73 hangs, -0.85 is level, -2.3 straight up
    arm_forward: Range = (-0.12, 0.18)
    elbow: Range = (-0.65, -0.15)  # -0.75 is straight
    hip: Range = (-0.04, 0.06)  # flexion
    knee: Range = (0.0, 0.08)
    legs_closed: Range = (-0.04, 0.09)
    bend: Range = (-0.04, 0.06)  # forwards, whole spine
    lean: Range = (-0.04, 0.04)  # sideways
    stride: Range = (0.0, 0.0)  # legs and arms in opposition


STYLES = {
    "relaxed": Style(0.36),
    "walking": Style(
        0.20, hip=(0.0, 0.1), knee=(0.02, 0.4), bend=(0.0, 0.1), stride=(0.15, 0.5)
    ),
    "arms up": Style(0.09, arm_down=(-2.1, -0.4), elbow=(-0.7, 0.7), arm_forward=(-0.3, 0.4)),
    "gesture": Style(
        0.17, arm_down=(-0.5, 0.65), elbow=(-0.6, 1.4), arm_forward=(-0.2, 0.7), lean=(-0.1, 0.1)
    ),
    "crouching": Style(
        0.05, hip=(0.7, 1.5), knee=(0.9, 1.9), bend=(0.1, 0.6), arm_forward=(0.1, 0.9),
        elbow=(-0.5, 0.9), legs_closed=(-0.3, 0.05),
    ),
    "sitting": Style(
        0.05, hip=(1.25, 1.55), knee=(1.2, 1.6), arm_forward=(0.1, 0.7), elbow=(-0.4, 0.6),
        legs_closed=(-0.2, 0.08), bend=(-0.15, 0.15),
    ),
    "leaning": Style(
        0.08, bend=(-0.15, 0.5), lean=(-0.35, 0.35), hip=(-0.1, 0.35), legs_closed=(-0.2, 0.05),
        arm_down=(0.0, 0.65), elbow=(-0.65, 0.8),
    ),
}  # fmt: skip
ANGLES = tuple(name for name in Style.__dataclass_fields__ if name != "share")


def rotation(axis: tuple[float, float, float], angle: torch.Tensor) -> torch.Tensor:
    """(B, 3, 3) rotation by an angle (B,) about a unit axis."""
    x, y, z = axis
    rows = [[0.0, -z, y], [z, 0.0, -x], [-y, x, 0.0]]
    cross = torch.tensor(rows, dtype=angle.dtype, device=angle.device)
    sine, cosine = angle.sin()[:, None, None], angle.cos()[:, None, None]
    return torch.eye(3, device=angle.device) + sine * cross + (1 - cosine) * (cross @ cross)


def turned(x: torch.Tensor, y: torch.Tensor, z: torch.Tensor) -> torch.Tensor:
    """(B, 3, 3): about y first, then x, then z."""
    return rotation((0, 0, 1), z) @ rotation((1, 0, 0), x) @ rotation((0, 1, 0), y)


def arm_room(body: Body, rest: torch.Tensor, wide: torch.Tensor) -> torch.Tensor:
    """(B,) how far an arm may be lowered before its hand meets a hip ``wide`` times as wide."""
    hips = (body.template[:, 2] - 0.5).abs() < 0.06
    hips &= body.regions["hand"] + body.regions["forearm"] < 0.1
    hip = rest[:, : body.vertices][:, hips, 0].amax(1) * wide
    shoulder = rest[:, body.vertices + body.bone("upperarm01.L"), 0]
    outwards = ((hip + 0.035 - shoulder) / ARM_LENGTH).clamp(-0.2, 0.9)
    return REST_ARM - outwards.asin()


def sample_pose(
    body: Body,
    rest: torch.Tensor,
    dice: Dice,
    *,
    calm: torch.Tensor,
    wide: torch.Tensor,
    style: str | None = None,
) -> torch.Tensor:
    """Joint rotations (B, J, 3, 3) for rest bodies (B, V + J, 3).

    ``calm`` (B,) in 0..1 holds legs back (a long skirt), ``wide`` (B,) is the width of the clothes
    at the hands over that of the hips; ``style`` fixes one row of the table.
    """
    rows = list(STYLES.values())
    if style is None:
        chosen = dice.choice([row.share for row in rows])
    else:
        chosen = torch.full((dice.count,), list(STYLES).index(style), device=dice.device)
    table = torch.tensor([[getattr(row, name) for name in ANGLES] for row in rows])
    low, high = table.to(dice.device)[chosen].unbind(-1)  # (B, angles)

    def draw() -> dict[str, torch.Tensor]:
        values = low + (high - low) * dice.uniform(0, 1, len(ANGLES))
        return dict(zip(ANGLES, values.unbind(-1), strict=True))

    trunk, left, right = draw(), draw(), draw()
    stride = trunk["stride"] * torch.where(dice.chance(0.5), 1.0, -1.0) * (1 - calm)
    room = arm_room(body, rest, wide)
    still = torch.zeros(dice.count, device=dice.device)
    pose = torch.eye(3, device=dice.device).repeat(dice.count, len(body.bones), 1, 1)

    def put(bone: str, matrix: torch.Tensor) -> None:
        pose[:, body.bone(bone)] = matrix

    put("root", turned(dice.normal(0.02), dice.normal(0.02), dice.normal(0.12)))
    for bone in ("spine05", "spine04", "spine03", "spine02", "spine01"):
        put(
            bone,
            turned(
                0.2 * trunk["bend"] + dice.normal(0.02),
                trunk["lean"] * 0.2 + dice.normal(0.015),
                dice.normal(0.03),
            ),
        )
    put("neck01", turned(dice.normal(0.06) - 0.2 * trunk["bend"], dice.normal(0.04), still))
    put("head", turned(dice.normal(0.1), dice.normal(0.06), dice.normal(0.25)))
    for side, sign, limb in (("L", 1.0, left), ("R", -1.0, right)):
        swing = stride * sign
        down = torch.minimum(limb["arm_down"], room)
        put(
            f"upperarm01.{side}",
            turned(-limb["arm_forward"] + 0.8 * swing, sign * down, dice.normal(0.12)),
        )
        x, y, z = ELBOW_AXIS
        flexion = rotation((x, sign * y, sign * z), limb["elbow"])
        put(f"lowerarm01.{side}", flexion)
        put(f"clavicle.{side}", turned(still, sign * (-0.15 * (0.2 - down).clamp(min=0)), still))
        put(f"wrist.{side}", turned(dice.normal(0.12), dice.normal(0.12), dice.normal(0.12)))
        hip = limb["hip"] * (1 - 0.6 * calm) - swing
        knee = limb["knee"] * (1 - 0.7 * calm)
        put(f"upperleg01.{side}", turned(-hip, sign * limb["legs_closed"], dice.normal(0.08)))
        put(f"lowerleg01.{side}", rotation((1, 0, 0), knee))
        flat = ((hip - knee) * 0.7).clamp(-math.pi / 6, math.pi / 6)  # keeps soles near the floor
        put(f"foot.{side}", turned(flat + dice.normal(0.04), still, dice.normal(0.05)))
    return pose


def skin(body: Body, rest: torch.Tensor, pose: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """Linear blend skinning.

    ``rest`` (B, V + J, 3) with V rows of ``weights`` (V, J) or (B, V, J); ``pose`` (B, J, 3, 3)
    composes down the tree about the joint heads. Returns (B, V, 3).
    """
    count = weights.shape[-2]
    vertices, heads = rest[:, :count], rest[:, count:]
    turns: list[torch.Tensor] = []
    moves: list[torch.Tensor] = []
    for joint, parent in enumerate(body.parents):
        turn = pose[:, joint]
        head = heads[:, joint, :, None]
        move = head - turn @ head
        if parent >= 0:
            move = turns[parent] @ move + moves[parent]
            turn = turns[parent] @ turn
        turns.append(turn)
        moves.append(move)
    affine = torch.cat([torch.stack(turns, 1), torch.stack(moves, 1)], -1).flatten(2)  # (B, J, 12)
    blended = (weights @ affine).unflatten(-1, (3, 4))  # (B, V, 3, 4)
    return (blended[..., :3] @ vertices[..., None])[..., 0] + blended[..., 3]

"""Geometry that the body does not have: skirts (dresses, coat tails) and long hair.

Both are closed surfaces turned on a lathe: rings of ``SIDES`` points about a vertical axis, the
first and the last ring shrunk to a point. Who wears none gets it collapsed to a point inside the
body, where no triangle has an area.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from training.people.body import Body
from training.people.wardrobe import Wardrobe

SIDES = 64
SKIRT_RINGS = 26  # of which the last 6 close the bottom
LOCKS_RINGS = 20


@dataclass(frozen=True)
class Sheet:
    """Rest geometry of one lathe for B subjects."""

    vertices: torch.Tensor  # (B, R * SIDES, 3)
    weights: torch.Tensor  # (B, R * SIDES, J)
    attributes: torch.Tensor  # (B, R * SIDES, 8), order of materials.Surface


def lathe_faces(rings: int, device: torch.device) -> torch.Tensor:
    """(2 (rings - 1) SIDES, 3): outward if rings go down and angles from +x to +y."""
    ring = torch.arange(rings - 1, device=device)[:, None] * SIDES
    side = torch.arange(SIDES, device=device)
    following = (side + 1) % SIDES
    upper, upper_next = ring + side, ring + following
    lower, lower_next = upper + SIDES, upper_next + SIDES
    first = torch.stack([upper, lower, upper_next], -1)
    second = torch.stack([upper_next, lower, lower_next], -1)
    return torch.cat([first, second], 1).reshape(-1, 3)


def _angles(device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    angle = torch.arange(SIDES, device=device) * (2 * math.pi / SIDES)
    return angle.cos(), angle.sin()


def _template_heights(body: Body, rest: torch.Tensor, z: torch.Tensor) -> torch.Tensor:
    """(B, R) heights of the subject's own rest body for template heights (R,) or (B, R).

    The rest body has its root at a different height for every build, so that legs and trunk are
    scaled apart: by the hip joint below, by the neck above.
    """
    hip_joint, neck_joint = (body.vertices + body.bone(n) for n in ("upperleg01.L", "neck01"))
    floor = rest[:, : body.vertices, 2].amin(1, keepdim=True)
    floor_t = body.mean[: body.vertices, 2].min()
    hip, hip_t = rest[:, hip_joint, 2:], body.mean[hip_joint, 2] - floor_t
    neck, neck_t = rest[:, neck_joint, 2:], body.mean[neck_joint, 2] - floor_t
    height_t = body.mean[: body.vertices, 2].max() - floor_t
    z = z * height_t
    below = floor + z / hip_t * (hip - floor)
    above = hip + (z - hip_t) / (neck_t - hip_t) * (neck - hip)
    return torch.where(z < hip_t, below, above)


def _band(body: Body, rest: torch.Tensor, low: float, high: float) -> torch.Tensor:
    """(B, 3): half width, front and back of trunk and legs between two template heights."""
    inside = (body.template[:, 2] > low) & (body.template[:, 2] < high)
    inside &= body.regions["torso"] + body.regions["leg"] > 0.7
    points = rest[:, : body.vertices][:, inside]
    return torch.stack(
        [points[..., 0].abs().amax(1), points[..., 1].amin(1), points[..., 1].amax(1)], 1
    )


def skirt(body: Body, rest: torch.Tensor, wear: Wardrobe) -> Sheet:
    """A skirt from the waist to its hem, wide enough for the hips, hung on both thighs."""
    device = rest.device
    cosine, sine = _angles(device)
    waist, hips = _band(body, rest, 0.59, 0.63), _band(body, rest, 0.46, 0.53)
    fall = torch.cat([torch.linspace(0, 1, SKIRT_RINGS - 6), torch.ones(6)]).to(device)
    shrink = torch.cat([torch.ones(SKIRT_RINGS - 6), torch.linspace(0.9, 0, 6)]).to(device)
    shrink[0] = 0.0
    z = 0.615 - fall * (0.615 - wear.skirt_hem[:, None])  # (B, R) template height
    to_hips = ((0.615 - z) / 0.115).clamp(0, 1)[..., None]
    below_hips = ((0.5 - z) / 0.4).clamp(min=0)[..., None]
    outline = waist[:, None] * (1 - to_hips) + hips[:, None] * to_hips  # (B, R, 3)
    flare = 1 + (wear.skirt_flare[:, None, None] - 1) * below_hips
    centre_y = (outline[..., 1:2] + outline[..., 2:]) / 2
    slack = 0.002 + 0.008 * to_hips + 0.035 * below_hips
    radius_x = outline[..., :1] * flare + slack
    radius_y = (outline[..., 2:] - outline[..., 1:2]) / 2 * flare + slack + 0.008 * to_hips
    angle = torch.arange(SIDES, device=device) * (2 * math.pi / SIDES)
    pleats = 1 + 0.05 * below_hips.clamp(max=1) * torch.sin(9 * angle + wear.phase[:, :1, None])
    size = shrink[:, None] * pleats  # (B, R, SIDES)
    x = radius_x * cosine * size
    y = centre_y + radius_y * sine * size
    height = _template_heights(body, rest, z)[..., None].expand_as(x)
    vertices = torch.stack([x, y, height], -1)

    share = (0.95 * fall.clamp(0, 0.5) / 0.5)[None, :, None]  # thighs carry the lower half
    left = torch.sigmoid(5 * x / radius_x)
    weights = torch.zeros(*x.shape, len(body.bones), device=device)
    weights[..., body.bone("root")] = 1 - share
    weights[..., body.bone("upperleg01.L")] = share * left
    weights[..., body.bone("upperleg01.R")] = share * (1 - left)
    return _sheet(vertices, weights, z, wear.skirt, 1, rest[:, body.vertices])


def locks(body: Body, rest: torch.Tensor, wear: Wardrobe) -> Sheet:
    """Hair from the crown over ears and nape down to its end, open at the face."""
    device = rest.device
    cosine, sine = _angles(device)
    skull = (body.template[:, 2] > 0.935) & (body.regions["head"] > 0.9)
    points = rest[:, : body.vertices][:, skull]
    low, high = points.amin(1), points.amax(1)
    centre, radius = (low + high) / 2, (high - low) / 2
    centre_z = high[:, 2] - 0.062
    volume = wear.locks_volume[:, None, None]
    fall = torch.linspace(0, 1, LOCKS_RINGS, device=device)
    dome = (fall / 0.4).clamp(max=1)[:, None] * (math.pi / 2)
    drop = ((fall - 0.4) / 0.6).clamp(min=0)[:, None]
    length = (0.94 - wear.locks_end)[:, None, None]
    taper = 1 - 0.3 * drop - 0.7 * (drop > 0.999).float()
    opening = torch.sigmoid(14 * (sine + 0.25))[None]  # 0 in the face, 1 at sides and back
    grow = dome.sin() * taper
    x = (radius[:, :1, None] + volume) * cosine * grow
    behind = (radius[:, 1:2, None] + volume) * sine * grow
    y = centre[:, 1:2, None] + torch.where(sine < 0, behind * (0.35 + 0.5 * opening), behind)
    y = y + 0.035 * drop * opening
    top = centre_z[:, None, None] + (0.062 + 0.7 * volume) * dome.cos()
    z = (top - length * drop).expand_as(x)
    vertices = torch.stack([x, y, z], -1)

    weights = torch.zeros(*x.shape, len(body.bones), device=device)
    on_head = (1 - (drop * length - 0.05).clamp(0, 0.1) / 0.1 * 0.8).expand_as(x)
    weights[..., body.bone("head")] = on_head
    weights[..., body.bone("spine01")] = 1 - on_head
    heights = (0.94 - length * drop)[..., 0].expand(len(x), -1)
    return _sheet(
        vertices, weights, heights, wear.locks, 2, rest[:, body.vertices + body.bone("neck03")]
    )


def _sheet(
    vertices: torch.Tensor,
    weights: torch.Tensor,
    heights: torch.Tensor,
    worn: torch.Tensor,
    number: int,
    inside: torch.Tensor,
) -> Sheet:
    """Pack (B, R, SIDES, ...) rings; who does not wear it gets the point ``inside`` (B, 3)."""
    vertices = torch.where(worn[:, None, None, None], vertices, inside[:, None, None])
    zero = torch.zeros_like(vertices[..., 0])
    z = heights[..., None].expand_as(zero)
    columns = [vertices[..., 0], vertices[..., 1], z, zero, zero, zero, zero, zero + number]
    return Sheet(
        vertices.flatten(1, 2), weights.flatten(1, 2), torch.stack(columns, -1).flatten(1, 2)
    )

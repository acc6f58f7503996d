"""People end to end: shape, clothes, pose, placement in the volume, pictures."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from training.people import sheets
from training.people.body import Body, load_body
from training.people.light import Light, photograph_light, studio_light
from training.people.materials import body_attributes
from training.people.pose import sample_pose, skin
from training.people.projection import project_photograph, project_views
from training.people.randomness import Dice
from training.people.relief import relief
from training.people.render import Mesh, Pictures, render
from training.people.topology import Neighbours, vertex_normals
from training.people.wardrobe import Wardrobe, sample_wardrobe

HELD_OUT = 300  # the last exported bodies are never trained on
MARGIN = 0.998  # the longer side of the subject, of the volume


class People:
    """Draws batches of people on one device. Stateless but for the shared body data."""

    def __init__(self, device: torch.device | str = "cpu") -> None:
        self.body: Body = load_body(device)
        body = self.body
        skirt_start = body.vertices
        locks_start = skirt_start + sheets.SKIRT_RINGS * sheets.SIDES
        self.faces = torch.cat(
            [
                body.faces,
                sheets.lathe_faces(sheets.SKIRT_RINGS, body.faces.device) + skirt_start,
                sheets.lathe_faces(sheets.LOCKS_RINGS, body.faces.device) + locks_start,
            ]
        )
        self.attributes = body_attributes(body)
        self.neighbours = Neighbours(body.faces, body.vertices)
        self.template_normals = vertex_normals(body.mean[None, : body.vertices], body.faces)[0]

    def sample(
        self,
        count: int,
        generator: torch.Generator,
        *,
        held_out: bool = False,
        style: str | None = None,
        wear: Wardrobe | None = None,
    ) -> tuple[Mesh, Wardrobe]:
        """``count`` people in the volume; ``style`` names one row of pose.STYLES."""
        body, dice = self.body, Dice(count, generator)
        wear = wear or sample_wardrobe(dice)
        rest = self._rest(dice, held_out)
        rest[:, : body.vertices] += (
            relief(body, self.attributes, self.neighbours, wear)[..., None] * self.template_normals
        )
        calm = wear.skirt * ((0.5 - wear.skirt_hem) / 0.3).clamp(0, 1)
        wide = 1 + wear.skirt * 0.35 * (wear.skirt_flare - 0.9)
        pose = sample_pose(body, rest, dice, calm=calm, wide=wide, style=style)
        heads = rest[:, body.vertices :]
        posed = [skin(body, rest, pose, body.weights)]
        attributes = [self.attributes.expand(count, -1, -1)]
        for sheet in (sheets.skirt(body, rest, wear), sheets.locks(body, rest, wear)):
            posed.append(skin(body, torch.cat([sheet.vertices, heads], 1), pose, sheet.weights))
            attributes.append(sheet.attributes)
        vertices = self._place(torch.cat(posed, 1))
        normals = vertex_normals(vertices, self.faces)
        return Mesh(vertices, normals, torch.cat(attributes, 1), self.faces), wear

    def _rest(self, dice: Dice, held_out: bool) -> torch.Tensor:
        """(B, V + J, 3): a random mixture of two exported bodies."""
        rows = len(self.body.coefficients)
        low, high = (rows - HELD_OUT, rows) if held_out else (0, rows - HELD_OUT)
        first, second = self.body.coefficients[dice.integers(low, high, 2)].unbind(1)
        mixed = torch.lerp(first, second, dice.uniform(0, 0.5, 1))
        return self.body.mean + torch.einsum("bk,kvc->bvc", mixed, self.body.basis)

    def _place(self, vertices: torch.Tensor) -> torch.Tensor:
        """Fill the front view; in depth the trunk is at the middle, whatever the limbs do.

        Centring the depth of the bounding box instead would move the trunk of everybody who
        stretches out a hand, which no front picture tells.
        """
        low, high = vertices.amin(1), vertices.amax(1)
        middle = (low + high) / 2
        trunk = (self.attributes[:, 3] > 0.9).nonzero()[:, 0]
        middle[:, 1] = vertices[:, trunk, 1].mean(1)
        depth = torch.maximum(high[:, 1] - middle[:, 1], middle[:, 1] - low[:, 1]) * 2
        side = torch.maximum((high - low)[:, [0, 2]].amax(1), depth)
        return (vertices - middle[:, None]) * (MARGIN / side)[:, None, None]

    def views(
        self, mesh: Mesh, wear: Wardrobe, size: int, *, samples: int = 2, kernel: bool | None = None
    ) -> Pictures:
        """The five target views (B, 5, ., size, size)."""
        points = project_views(mesh.vertices, size * samples)
        lights: list[Light] = [studio_light(len(points), points.device)] * 5
        return render(mesh, points, wear, lights, size, samples=samples, kernel=kernel)

    def photograph(
        self,
        mesh: Mesh,
        wear: Wardrobe,
        size: int,
        generator: torch.Generator,
        *,
        samples: int = 2,
        kernel: bool | None = None,
    ) -> Pictures:
        """The input picture (B, 1, ., size, size): its own light, exposure and a near camera."""
        dice = Dice(len(mesh.vertices), generator)
        distance = 1 / dice.uniform(0.05, 0.4)
        points = project_photograph(mesh.vertices, distance, size * samples)[:, None]
        light = photograph_light(dice)
        return render(mesh, points, wear, [light], size, samples=samples, kernel=kernel)


def white_background(pictures: Pictures) -> torch.Tensor:
    """(B, N, 6, S, S): normal map, then colour, both on white, 0..1."""
    return torch.cat([pictures.normal_map_on_white(), pictures.color_on_white()], 2)


def enlarge_face(front: torch.Tensor) -> torch.Tensor:
    """(B, C, S, S) -> the top centre third, bicubic to S (model.md 4)."""
    size = front.shape[-1]
    third = size // 3
    crop = front[..., :third, third : 2 * third]
    return F.interpolate(crop, size=(size, size), mode="bicubic", antialias=False).clamp(0, 1)

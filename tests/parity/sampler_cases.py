"""Builders about Stage 1 around the networks: noise, sampling, and the views that it hands over."""

from __future__ import annotations

import re

import numpy as np
import torch
import torch.nn.functional as F
from case import Case
from PIL import Image
from registry import Outputs, case
from torch import Tensor

from deployments.contracts import ignore_progress, never_cancelled
from deployments.layers.flow_schedule import flow_schedule
from deployments.preprocess.framing import alpha_box, frame_subject
from deployments.stage1.sampler import (
    Latents,
    flow_times,
    initial_noise,
    model_times,
    sample,
)
from deployments.stage1.views import finish_views


@case(outputs={"trellis_noise"})
def structure_noise(case: Case) -> Outputs:
    """The seed is said in the note, "... after torch.manual_seed(43)", or in the name."""
    said = re.search(r"manual_seed\((\d+)\)", case.note) or re.search(r"seed(\d+)", case.name)
    assert said, "neither note nor name tells the seed"
    shape, seed = case.outputs["trellis_noise"].shape, int(said.group(1))
    noise = initial_noise(seed, (10, 4, 6, 6), shape, device="cpu", dtype=torch.float32)
    return {"trellis_noise": noise.structure}


@case(fields={"stub", "schedule_t"})
def sampler(case: Case) -> Outputs:
    """The sampling loop around the case's linear stand-in for the networks."""
    d, i = case.document, case.inputs
    for steps, expected in d["schedule_t"].items():
        times = flow_schedule(int(steps), d["rescale_t"])
        np.testing.assert_allclose(times, expected, rtol=0, atol=1e-15)
        assert flow_times(times, torch.float16) == d["trellis_t_float16"][steps]
    schedule = flow_schedule(d["steps"], d["rescale_t"])
    times = model_times(schedule)
    np.testing.assert_allclose(times, d["timesteps_passed"], rtol=1e-15)
    trajectory = [Latents(i["latents"], i["trellis_noise"])]

    def velocities(latents: Latents, index: int) -> tuple[Tensor, Tensor]:
        if index:
            trajectory.append(latents)
        return _stand_in(latents, case, times[index])

    final = sample(
        velocities,
        trajectory[0],
        schedule,
        guidance=d["guidance_scale"],
        seed=0,
        progress=ignore_progress,
        cancelled=never_cancelled,
    )
    trajectory.append(final)
    return {
        "latents_trajectory": torch.stack([latents.pictures for latents in trajectory]),
        "trellis_trajectory": torch.stack([latents.structure[0] for latents in trajectory]),
        "trellis_final": final.structure,
    }


def _stand_in(latents: Latents, case: Case, time: float) -> tuple[Tensor, Tensor]:
    """``stub`` of the case, rows in the kit's order (2, G, V), velocities in ours (G, 2 V)."""
    i = case.inputs

    def both_branches(x: Tensor) -> Tensor:
        n, c = x.chunk(2)
        return torch.cat([n, n, c, c])

    pictures = torch.cat([both_branches(latents.pictures), i["image_latents_cfg"]], dim=1)
    rows = pictures.shape[0] // 4
    structure = latents.structure.repeat(2, 1, 1, 1, 1)
    condition = torch.cat([torch.zeros_like(i["trellis_cond"]), i["trellis_cond"]])

    branch = torch.arange(2).repeat_interleave(rows).repeat(2)
    per_row = (
        0.05 * both_branches(i["prompt_embeds"]).mean((1, 2))
        + 0.1 * i["class_labels"].mean(1)
        + 0.001 * time
        + 0.07 * structure.mean((1, 2, 3, 4))[branch]
    )
    v = 0.3 * pictures[:, :4] - 0.2 * pictures[:, 4:8] + per_row[:, None, None, None]
    means = torch.stack([half.mean() for half in pictures[: 2 * rows].chunk(2)])
    per_branch = 0.1 * condition.mean((1, 2)) + 0.0001 * time + 0.02 * means
    h = 0.25 * structure + per_branch[:, None, None, None, None]
    return v.unflatten(0, (2, 2, -1)).transpose(0, 1).flatten(1, 2), h


@case(fields={"files", "npz", "recipe"})
def file_interface(case: Case) -> Outputs:
    """What Stage 1 makes of decoded pictures, and how Stage 2's networks and baking see it."""
    _, height, mode = case.document["files"]["color_0.png"]
    decoded = F.interpolate(
        case.inputs["decoded_24px"], (height, height), mode="bicubic", align_corners=False
    ).clamp(0, 1)
    photo = Image.open(case.folder / "input.png")
    box = alpha_box(photo, 0)
    assert box is not None
    rgba = np.asarray(frame_subject(photo, box, height))
    color, normal = finish_views(decoded, rgba)
    assert mode == "RGB"

    strip = [picture for pair in zip(color, normal, strict=True) for picture in pair]
    outputs = {f"color_{n}": torch.from_numpy(picture) for n, picture in enumerate(color)}
    outputs |= {f"normal_{n}": torch.from_numpy(picture) for n, picture in enumerate(normal)}
    outputs["concat"] = torch.from_numpy(np.concatenate(strip, axis=1))
    for name, pictures in (("img", color), ("normal", normal)):
        views = torch.from_numpy(pictures).permute(0, 3, 1, 2).float() / 255
        outputs[f"mv_{name}"] = views[:4]
        canvas = torch.ones(3, 2 * height, 2 * height)
        third = 2 * height // 3
        face = F.interpolate(views[4:], (third, third), mode="bilinear", align_corners=False)
        canvas[:, :third, third : 2 * third] = face[0]
        outputs[f"faces_{name}"] = canvas
    rows = re.compile(r"(.+)_rows(\d+)_(\d+)_every\d+$")
    for name in case.outputs:
        if cut := rows.match(name):
            first, last = int(cut.group(2)), int(cut.group(3))
            outputs[name] = outputs[cut.group(1)][first:last]
    return outputs

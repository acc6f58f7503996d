"""Cases about pictures before the networks: framing, and what CLIP and DINOv2 see."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import PIL
import torch
from case import Case
from PIL import Image
from registry import Outputs, case

from deployments.checkpoints.component import Component
from deployments.checkpoints.loading import load_strict
from deployments.checkpoints.method import MethodConfig
from deployments.checkpoints.tree import OFFICIAL_DINOV2_CONFIG
from deployments.checkpoints.weight_files import DINOV2_OFFICIAL_FILE, WeightFiles
from deployments.layers.dinov2 import DinoV2, build_dinov2
from deployments.preprocess.framing import (
    SOLID_ALPHA,
    alpha_box,
    condition_picture,
    frame_face,
    frame_subject,
    on_white,
    quantise,
)
from deployments.stage1.conditioning import clip_pictures, normalise_for_clip

_DINOV2 = (
    "DINOv2 ViT with 4 registers, patch 14, img_size 518, LayerScale, no block chunks, "
    "interpolate_antialias, interpolate_offset 0"
)


@case(fields={"images", "clip_processor"})
def image_preprocessing(case: Case) -> Outputs:
    """Every picture of the case through our framing; PNG files are compared here."""
    method = MethodConfig()
    outputs: Outputs = {}
    for index, facts in enumerate(case.document["images"]):
        image = Image.open(case.folder / facts["file"])
        visible, solid = alpha_box(image, 0), alpha_box(image, SOLID_ALPHA)
        assert visible is not None
        assert solid is not None
        assert [*visible] == [*facts["nonzero_alpha_min_xy"], *facts["nonzero_alpha_max_xy"]]
        assert [*solid] == [*facts["alpha_gt_204_min_xy"], *facts["alpha_gt_204_max_xy"]]

        canvas = frame_subject(image, visible, method.picture_size)
        front, face = on_white(canvas), on_white(frame_face(canvas))
        clip = clip_pictures(np.stack([quantise(front), quantise(face)]), 224)
        _same_picture(case, f"mv_image_u8_{index}.png", quantise(front))
        _same_picture(case, f"mv_face_u8_{index}.png", quantise(face))
        _same_picture(case, f"clip224_image_{index}.png", clip[0])
        _same_picture(case, f"clip224_face_{index}.png", clip[1])
        _same_picture(
            case,
            f"cond518_{index}.png",
            condition_picture(image, solid, method.condition_size),
        )
        outputs[f"mv_image_f32_{index}"] = torch.from_numpy(front).permute(2, 0, 1)
        outputs[f"mv_face_f32_{index}"] = torch.from_numpy(face).permute(2, 0, 1)
        outputs[f"clip_pixel_values_{index}"] = normalise_for_clip(torch.from_numpy(clip))
    return outputs


def _same_picture(case: Case, name: str, produced: np.ndarray[Any, Any]) -> None:
    """Exact with the Pillow that made the case, else within one 8-bit step."""
    expected = np.asarray(Image.open(case.folder / name).convert("RGB")).astype(int)
    allowed = 0 if PIL.__version__ == case.document["pillow_version"] else 1
    worst = np.abs(expected - produced.astype(int)).max()
    assert worst <= allowed, f"{case.name}: {name} is off by {worst} of 255 (allowed {allowed})"


@case(ctor=_DINOV2, entries={"model"})
def dinov2_conditioning(case: Case) -> Outputs:
    """Weights under their official .pth names, through the key table, into our read-outs."""
    config = case.config
    sizes = {
        "hidden_size": config["embed_dim"],
        "num_hidden_layers": config["depth"],
        "num_attention_heads": config["num_heads"],
        "mlp_ratio": config["mlp_ratio"],
        "layer_norm_eps": config["layer_norm_eps"],
        "image_size": 518,
        "patch_size": 14,
        "num_register_tokens": 4,
    }
    with tempfile.TemporaryDirectory() as folder:
        torch.save(case.weights(), Path(folder) / DINOV2_OFFICIAL_FILE)
        model = load_strict(
            lambda: build_dinov2({**OFFICIAL_DINOV2_CONFIG, **sizes}),
            WeightFiles.locate(Path(folder)),
            Component.DINOV2,
            device=torch.device("cpu"),
            dtype=torch.float32,
        )
    dinov2 = DinoV2(model, feature_size=896, feature_layers=(4, 11, 17, 23))
    picture = np.array(Image.open(case.folder / "cond518.png").convert("RGB"))
    features = dinov2.multiview_features(case.inputs["mv_small"][0])
    table = dinov2.position_table(896 // 14)
    return {
        "cond": dinov2.condition(picture[None]),
        "mv_features_view0": features[None, 0],
        "mv_features_view1": features[None, 1],
        "pos_embed_896": table,
        "cls_pos": table[:, 0],
    }

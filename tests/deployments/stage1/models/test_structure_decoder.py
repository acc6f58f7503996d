from __future__ import annotations

import torch

from deployments.stage1.models.structure_decoder import (
    StructureDecoder,
    StructureDecoderConfig,
    occupied_voxels,
)


def test_every_level_doubles_the_grid() -> None:
    config = StructureDecoderConfig.from_dict(
        {"channels": [16, 8, 8], "num_res_blocks": 1, "use_fp16": True}
    )
    logits = StructureDecoder(config).eval()(torch.randn(1, 8, 4, 4, 4))
    assert logits.shape == (1, 1, 16, 16, 16)


def test_voxels_come_in_row_major_order_and_only_above_zero() -> None:
    logits = torch.full((1, 1, 3, 3, 3), -1.0)
    logits[0, 0, 2, 0, 1] = 0.5
    logits[0, 0, 0, 1, 2] = 0.1
    logits[0, 0, 1, 1, 1] = 0.0
    assert occupied_voxels(logits).tolist() == [[0, 1, 2], [2, 0, 1]]

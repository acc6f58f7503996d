"""Builders of the Stage 1 networks.

The kit orders rows of a picture batch (2, G, V): domain, guidance branch, view. Our modules use
(G, V, 2).
"""

from __future__ import annotations

from typing import Any

import torch
from case import Case
from registry import Outputs, case, small_amplitude
from torch import Tensor

from deployments.layers.embeddings import TimestepEmbedder, grid_position_table, sinusoid
from deployments.layers.group_norm import Measured
from deployments.layers.modulated_block import ModulatedBlock
from deployments.layers.pointwise import to_rowwise
from deployments.layers.voxels import patchify, pixel_shuffle_3d
from deployments.stage1.models.config import JointModelConfig
from deployments.stage1.models.correspondence import pixels_of_voxels, voxels_of_pixels
from deployments.stage1.models.joint_model import Conditioning, JointModel
from deployments.stage1.models.multiview_block import MultiviewBlock
from deployments.stage1.models.structure_decoder import (
    StructureDecoder,
    StructureDecoderConfig,
    occupied_voxels,
)
from deployments.stage1.models.sync import PictureSync, StructureSync
from deployments.stage1.models.unet_blocks import (
    Conditions,
    DownBlock,
    Downsample,
    MidBlock,
    MultiviewTransformer,
    ResnetBlock,
    UpBlock,
    Upsample,
)

VIEWS = 5
GROUPS = 32


def to_rows(x: Tensor, views: int = VIEWS) -> Tensor:
    """Kit order (2, G, V) of the first axis -> our order (G, V, 2); pictures channels last."""
    rows = x.unflatten(0, (2, -1, views)).movedim(0, 2).flatten(0, 2)
    return rows.contiguous(memory_format=torch.channels_last) if x.ndim == 4 else rows


def from_rows(x: Tensor, views: int = VIEWS) -> Tensor:
    """Our order (G, V, 2) -> kit order (2, G, V) of the first axis."""
    return x.unflatten(0, (-1, views, 2)).movedim(2, 0).flatten(0, 2)


@case(ctor="ModulatedTransformerCrossBlock")
def flow_block(case: Case) -> Outputs:
    block = _flow_block(case.config)
    case.fill(block)
    i = case.inputs
    return {"out": _run_flow_block(block, i["x"], i["mod"], i["context"])}


@case(ctor="BasicMVTransformerBlock")
def multiview_block(case: Case) -> Outputs:
    block = _multiview_block(case.config)
    case.fill(block)
    x, text = to_rows(case.inputs["hidden_states"]), to_rows(case.inputs["encoder_hidden_states"])
    keys = block.attn2.context_keys(text)
    grouped = block.attn_mv(to_rowwise(x, block.views))  # (G, 2, S, 4, S, C)
    body = grouped.permute(1, 0, 3, 2, 4, 5).flatten(3, 4).flatten(0, 2)
    return {
        "out": from_rows(block(x, keys)),
        "attn1_out": from_rows(block.attn1(x)),
        "attn_mv_out_on_body_views": body,
        "attn2_out": from_rows(block.attn2(x, *keys)),
    }


@case(ctor="CrossAttnDownBlockMV2D")
def down_block(case: Case) -> Outputs:
    c = case.config
    widths = [c["in_channels"]] + [c["out_channels"]] * (c["num_layers"] - 1)
    block = DownBlock(
        [_resnet(c, width) for width in widths],
        [_transformer(c) for _ in widths],
        Downsample(c["out_channels"]) if c["add_downsample"] else None,
    )
    case.fill(block)
    hidden, skips = block(to_rows(case.inputs["hidden_states"]), _conditions(case, block))
    named = {f"res_{n}": from_rows(skip.pixels) for n, skip in enumerate(skips)}
    return {"hidden": from_rows(hidden.pixels), **named}


@case(ctor="UNetMidBlockMV2DCrossAttn")
def mid_block(case: Case) -> Outputs:
    c = {**case.config, "out_channels": case.config["in_channels"]}
    width = c["in_channels"]
    block = MidBlock([_resnet(c, width), _resnet(c, width)], [_transformer(c)])
    case.fill(block)
    x = to_rows(case.inputs["hidden_states"])
    return {"out": from_rows(block(x, _conditions(case, block)).pixels)}


@case(ctor="CrossAttnUpBlockMV2D")
def up_block(case: Case) -> Outputs:
    c, i = case.config, case.inputs
    skips = [Measured(to_rows(i[f"res_{n}"])) for n in range(c["num_layers"])]
    widths = [c["prev_output_channel"]] + [c["out_channels"]] * (c["num_layers"] - 1)
    widths = [w + s.pixels.shape[1] for w, s in zip(widths, reversed(skips), strict=True)]
    block = UpBlock(
        [_resnet(c, width) for width in widths],
        [_transformer(c) for _ in widths],
        Upsample(c["out_channels"]) if c["add_upsample"] else None,
    )
    case.fill(block)
    out = block(to_rows(i["hidden_states"]), skips, _conditions(case, block))
    return {"out": from_rows(out.pixels)}


@case(ctor="DualCrossAttentionSS")
def structure_sync(case: Case) -> Outputs:
    c, pictures, structure = case.config, case.inputs["MV"], case.inputs["structure"]
    block = _structure_sync(c, structure)
    case.fill(block)
    views = c["num_views"]
    return {
        "out": block(to_rows(pictures, views), structure),
        "image_features_16px": _as_grid(block.picture_features(pictures[:views]), axes=2),
    }


@case(ctor="DualCrossAttentionMV")
def picture_sync(case: Case) -> Outputs:
    c, pictures, structure = case.config, case.inputs["MV"], case.inputs["structure"]
    block = _picture_sync(c, pictures)
    case.fill(block)
    views = c["num_views"]
    return {
        "out": from_rows(block(to_rows(pictures, views), structure), views),
        "voxel_features_12": _as_grid(block.voxel_features(structure[:1]), axes=3),
    }


@case(outputs={"ss_tokens_view_row_col_domain_batch", "mv_tokens_x_y_z_batch"})
def index_probe(case: Case) -> Outputs:
    """The gathers of the sync blocks, run on coordinates in place of features."""
    ss = case.outputs["ss_tokens_view_row_col_domain_batch"]
    mv = case.outputs["mv_tokens_x_y_z_batch"]
    view, row, column = torch.meshgrid(
        torch.arange(4), *[torch.arange(ss.shape[1])] * 2, indexing="ij"
    )
    zero = torch.zeros_like(view)
    pixels = torch.stack([torch.stack([view, row, column, zero, zero + b], -1) for b in range(2)])
    axes = torch.meshgrid(*[torch.arange(mv.shape[2])] * 3, indexing="ij")
    cells = torch.stack([torch.stack([*axes, axes[0] * 0 + b], -1) for b in range(2)])
    return {
        "ss_tokens_view_row_col_domain_batch": pixels_of_voxels(pixels),
        "mv_tokens_x_y_z_batch": voxels_of_pixels(cells),
    }


@case(outputs={"flow_sinusoid_256", "unet_sinusoid_320", "noise_level_sinusoid"})
def embeddings(case: Case) -> Outputs:
    i, width = case.inputs, case.config["model_channels"]
    embedder = TimestepEmbedder(width)
    case.fill(embedder, "t_embedder")
    levels = torch.tensor([0, 0, 3])
    return {
        "flow_sinusoid_256": sinusoid(i["t"], 256),
        "flow_t_emb": embedder(i["t"]),
        "unet_sinusoid_320": sinusoid(i["t"], 320),
        "pos_emb_ch": grid_position_table(16, width),
        "pos_emb_1024": grid_position_table(16, 1024),
        "noise_level_sinusoid": sinusoid(levels, 64),
        "patchify2": patchify(i["grid"], 2),
        "pixel_shuffle2": pixel_shuffle_3d(i["ps"], 2),
    }


@case(ctor="SparseStructureDecoder")
def structure_decoder(case: Case) -> Outputs:
    decoder = StructureDecoder(StructureDecoderConfig.from_dict(case.config))
    case.fill(decoder)
    logits = decoder(case.inputs["latent"])
    voxels = occupied_voxels(logits)
    assert len(voxels) == case.document["occupied"]
    head = voxels[: len(case.outputs["coords_head"])]
    return {"logits": logits, "coords_head": torch.cat([head[:, :1] * 0, head], dim=1)}


@case(ctor="SyncHuman_2D3DCrossSpaceDiffusion")
def joint_model(case: Case) -> Outputs:
    override = case.document.get("dual_dims_override")
    config = JointModelConfig.from_dict({**case.config, "sync": override})
    with torch.device("meta"):
        model = JointModel(config)
    case.fill(model)
    model.pos_emb = grid_position_table(config.token_grid, config.model_channels)
    model.prepare_for_inference()

    i, rows = case.inputs, 4 * config.num_views
    taps: Outputs = {}
    flow = {"flow_after_block7": model.blocks[7]}
    flow |= {f"flow_after_SS{n}": m for n, m in enumerate(model.dual_CrossAttblocks_SS)}
    pictures: dict[str, Any] = {"unet_after_mid": model.mid_block}
    pictures |= {f"unet_after_MV{n}": m for n, m in enumerate(model.dual_CrossAttblocks_MV)}
    _tap(flow, taps, lambda x: x)
    _tap(pictures, taps, lambda x: from_rows(Measured.of(x).pixels, config.num_views).mean(1))
    _tap({"time_emb": model.time_embedding}, taps, lambda x: x.expand(rows, -1))
    _tap({"class_emb": model.class_embedding}, taps, lambda x: from_rows(x, config.num_views))
    conditioning = Conditioning(
        i["prompt_embeds"], i["image_embeds"], i["image_latents"], i["trellis_cond"]
    )
    prepared = model.prepare(conditioning, [1000 * case.document["call"]["t"]], guided=True)
    v, h = model.step(i["noisy_latents"], i["trellis_x"], prepared, 0)
    v = v.unflatten(1, (2, -1)).transpose(0, 1).flatten(0, 2)  # (G, 2, V) -> (2, G, V)
    return {"v_unet": v, "v_flow": h, **taps}


@small_amplitude("mv_transformer_model")
def small_transformer(case: Case) -> Outputs:
    c = case.config["mv_transformer_model"]
    model = MultiviewTransformer(
        c["in_channels"],
        c["num_attention_heads"],
        c["cross_attention_dim"],
        c["num_views"],
        c["norm_num_groups"],
    )
    case.fill(model, "mv_transformer_model")
    keys = model.block.attn2.context_keys(to_rows(case.inputs["mv_ctx"]))
    return {"mv_transformer_model": from_rows(model(to_rows(case.inputs["mv_x"]), keys))}


@small_amplitude("mv_block")
def small_block(case: Case) -> Outputs:
    block = _multiview_block(case.config["mv_block"])
    case.fill(block, "mv_block")
    keys = block.attn2.context_keys(to_rows(case.inputs["mv_ctx"]))
    return {"mv_block": from_rows(block(to_rows(case.inputs["mv_tokens"]), keys))}


@small_amplitude("resnet")
def small_resnet(case: Case) -> Outputs:
    c = case.config["resnet"]
    block = ResnetBlock(
        c["in_channels"], c["out_channels"], c["temb_channels"], c["groups"], c["eps"]
    )
    case.fill(block, "resnet")
    return {"resnet": block(case.inputs["rx"], block.time_shift(case.inputs["rt"])).pixels}


@small_amplitude("flow_block")
def small_flow_block(case: Case) -> Outputs:
    block = _flow_block(case.config["flow_block"])
    case.fill(block, "flow_block")
    i = case.inputs
    return {"flow_block": _run_flow_block(block, i["fx"], i["fm"], i["fc"])}


@small_amplitude("dual_ss")
def small_structure_sync(case: Case) -> Outputs:
    pictures, structure = case.inputs["dmv24"], case.inputs["dst"]
    block = _structure_sync({**case.config["dual_ss"], "num_views": VIEWS}, structure)
    case.fill(block, "dual_ss")
    return {"dual_ss_delta": block(to_rows(pictures), structure) - structure}


@small_amplitude("dual_mv")
def small_picture_sync(case: Case) -> Outputs:
    pictures, structure = case.inputs["dmv12"], case.inputs["dst"]
    block = _picture_sync({**case.config["dual_mv"], "num_views": VIEWS}, pictures)
    case.fill(block, "dual_mv")
    return {"dual_mv_delta": from_rows(block(to_rows(pictures), structure)) - pictures}


@small_amplitude("ss_decoder")
def small_structure_decoder(case: Case) -> Outputs:
    decoder = StructureDecoder(StructureDecoderConfig.from_dict(case.config["ss_decoder"]))
    case.fill(decoder, "ss_decoder")
    return {"ss_decoder": decoder(case.inputs["sx"])}


def _flow_block(c: dict[str, Any]) -> ModulatedBlock:
    return ModulatedBlock(
        c["channels"],
        c["ctx_channels"],
        c["num_heads"],
        mlp_ratio=c.get("mlp_ratio", 4),
        qk_rms_norm=c["qk_rms_norm"],
    )


def _run_flow_block(block: ModulatedBlock, x: Tensor, mod: Tensor, context: Tensor) -> Tensor:
    return block(x, block.modulation(mod), block.context_keys(context))


def _multiview_block(c: dict[str, Any]) -> MultiviewBlock:
    return MultiviewBlock(
        c["dim"], c["num_attention_heads"], c["cross_attention_dim"], c["num_views"]
    )


def _resnet(c: dict[str, Any], channels: int) -> ResnetBlock:
    return ResnetBlock(
        channels, c["out_channels"], c["temb_channels"], c["resnet_groups"], c["resnet_eps"]
    )


def _transformer(c: dict[str, Any]) -> MultiviewTransformer:
    return MultiviewTransformer(
        c["out_channels"],
        c["num_attention_heads"],
        c["cross_attention_dim"],
        c["num_views"],
        c["resnet_groups"],
    )


def _conditions(case: Case, block: Any) -> Conditions:
    time, text = to_rows(case.inputs["temb"]), to_rows(case.inputs["encoder_hidden_states"])
    return Conditions(
        [resnet.time_shift(time) for resnet in block.resnets],
        [attention.block.attn2.context_keys(text) for attention in block.attentions],
    )


def _as_grid(tokens: Tensor, axes: int) -> Tensor:
    """(B, R^axes, C) -> (B, C, R, ...)."""
    size = round(tokens.shape[1] ** (1 / axes))
    return tokens.transpose(1, 2).unflatten(2, (size,) * axes)


def _structure_sync(c: dict[str, Any], structure: Tensor) -> StructureSync:
    return StructureSync(
        c["query_dim_MV"],
        c["query_dim_Structure"],
        c["heads"],
        c["dim_head"],
        c["num_views"],
        round(structure.shape[1] ** (1 / 3)),
    )


def _picture_sync(c: dict[str, Any], pictures: Tensor) -> PictureSync:
    return PictureSync(
        c["query_dim_MV"],
        c["query_dim_Structure"],
        c["heads"],
        c["dim_head"],
        c["num_views"],
        pictures.shape[-1],
    )


def _tap(modules: dict[str, Any], taps: Outputs, shown: Any) -> None:
    """Record what the named modules return, in the form that ``shown`` gives it."""
    for name, module in modules.items():
        module.register_forward_hook(
            lambda _module, _inputs, out, name=name: taps.__setitem__(name, shown(out))
        )

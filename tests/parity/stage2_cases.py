"""Builders of the Stage 2 networks: sparse operators, latent flow, both decoders."""

from __future__ import annotations

from typing import Any

import torch
from case import Case
from registry import Outputs, case, small_amplitude
from torch import Tensor

from deployments.layers.flow_schedule import flow_schedule
from deployments.layers.modulated_block import CrossAttention, ModulatedBlock, SelfAttention
from deployments.layers.sparse.convolution import PointwiseConv3d, SubmanifoldConv3d
from deployments.layers.sparse.normalization import SparseGroupNorm
from deployments.layers.sparse.resampling import downsample, subdivide, upsample
from deployments.layers.sparse.sites import Sites
from deployments.layers.sparse.tensor import SparseTensor
from deployments.layers.sparse.windows import Windows
from deployments.stage2.mesh.corners import average_corners
from deployments.stage2.mesh.extraction import extract_mesh
from deployments.stage2.models.config import (
    GaussianConfig,
    GaussianDecoderConfig,
    LatentFlowConfig,
    MeshDecoderConfig,
)
from deployments.stage2.models.decoder_trunk import DecoderTrunk, MultiviewBlock
from deployments.stage2.models.gaussian_decoder import (
    GaussianDecoder,
    RawGaussians,
    inverse_sigmoid,
    inverse_softplus,
)
from deployments.stage2.models.latent_flow import LatentFlow
from deployments.stage2.models.mesh_decoder import MeshDecoder, SubdivideBlock
from deployments.stage2.models.residual_block import Resample, SparseResidualBlock
from deployments.stage2.models.view_features import CellFeatures
from deployments.stage2.sampler import Guidance, euler_steps, flow_velocities

SPARSE_ENTRIES = {"conv3", "conv1", "groupnorm", "attn_full", "attn_swin0", "res_down", "mod_block"}


@case(entries=SPARSE_ENTRIES)
def sparse_operators(case: Case) -> Outputs:
    c, i = case.config, case.inputs
    x = SparseTensor(Sites(i["coords"]), i["feats"])
    down = downsample(x)
    up = upsample(down.with_feats(down.feats * 2 + 1), like=x)
    fine = subdivide(x)
    half = c["window_size"] // 2
    windows = {shift: x.sites.windows(c["window_size"], shift) for shift in (0, half)}

    res_plain = _residual(case, "res_plain")(x, i["emb"])
    res_down = _residual(case, "res_down", Resample.DOWN)(x, i["emb"])
    res_up = _residual(case, "res_up", Resample.UP)(res_down, i["emb"], like=x)
    wide = SparseTensor(x.sites, i["feats64"])
    return {
        "conv3": case.fill(_convolution(case, "conv3"), "conv3")(x.feats, x.sites),
        "conv1": case.fill(_pointwise(case, "conv1"), "conv1")(x.feats),
        "down_coords": down.coords,
        "down_feats": down.feats,
        "up_coords": up.coords,
        "up_feats": up.feats,
        "subdivide_coords": fine.coords,
        "subdivide_feats_col0": fine.feats[:, 0],
        "groupnorm": case.fill(SparseGroupNorm(c["group_norm_groups"], c["channels"]), "groupnorm")(
            x.feats, x.sites
        ),
        f"window_id_ws{c['window_size']}_shift0": _window_ids(windows[0]),
        f"window_id_ws{c['window_size']}_shift{half}": _window_ids(windows[half]),
        "attn_full": _self_attention(case, "attn_full")(x.feats, x.sites.lengths),
        "attn_full_rms": _self_attention(case, "attn_full_rms", rms=True)(x.feats, x.sites.lengths),
        "attn_swin0": _windowed(_self_attention(case, "attn_swin0"), x.feats, windows[0]),
        f"attn_swin{half}": _windowed(
            _self_attention(case, f"attn_swin{half}"), x.feats, windows[half]
        ),
        "attn_cross": _cross_attention(case, x),
        "res_plain_feats": res_plain.feats,
        "res_plain_coords": res_plain.coords,
        "res_down_feats": res_down.feats,
        "res_down_coords": res_down.coords,
        "res_up_feats": res_up.feats,
        "res_up_coords": res_up.coords,
        "mod_block": _modulated(case, "mod_block", x, i["mod"], i["context"], c["heads"]),
        "subdivide_block_feats": _subdivide_block(case, wide).feats,
    }


@case(ctor="SLatFlowModel")
def latent_flow(case: Case) -> Outputs:
    flow = case.fill(LatentFlow(LatentFlowConfig.from_dict(case.config)))
    i, s = case.inputs, case.document["sampler"]
    outputs = _taps(flow, {"input_blocks": "after_input_blocks", "blocks": "after_blocks"})
    x = SparseTensor(Sites(i["coords"]), i["x"])
    outputs["out"] = flow(x, i["t"], flow.context_keys(i["cond"]))

    times = flow_schedule(s["steps"], s["rescale_t"])
    torch.testing.assert_close(times, case.document["schedule_t"], atol=1e-12, rtol=0)
    official = case.document.get("official_schedule_25")
    if official is not None:
        torch.testing.assert_close(flow_schedule(25, s["rescale_t"]), official, atol=1e-12, rtol=0)
        guidance = Guidance(s["cfg_strength"], tuple(s["cfg_interval"]))
        guided = sum(guidance.acts_at(time) for time in official[:-1])
        assert guided == case.document["official_guided_steps_25"]

    model_times: list[float] = []
    first = Sites(i["coords"][i["coords"][:, 0] == 0])
    velocities = flow_velocities(flow, first, i["cond"][:1])

    def listed(latent: Tensor, time: float, negative: bool) -> tuple[Tensor, Tensor | None]:
        model_times.extend([1000 * time] * (1 + negative))
        return velocities(latent, time, negative)

    kept = dict(outputs)
    steps, latent = [], i["noise"]
    for step in euler_steps(
        listed,
        i["noise"],
        steps=s["steps"],
        rescale_t=s["rescale_t"],
        guidance=Guidance(s["cfg_strength"], tuple(s["cfg_interval"])),
    ):
        # The reported estimate of the end point (model.md 12); sampling itself does not need it.
        t, low = step.time, s["sigma_min"]
        steps.append((step.latent, (1 - low) * latent - (low + (1 - low) * t) * step.velocity))
        latent = step.latent
    torch.testing.assert_close(
        model_times, case.document["timesteps_of_each_model_call"], atol=1e-3, rtol=0
    )
    method = _method()
    kept["traj_x_t"] = torch.stack([x_t for x_t, _ in steps])
    kept["traj_x_0"] = torch.stack([x_0 for _, x_0 in steps])
    kept["samples"] = latent
    kept["samples_denormalized"] = latent * torch.tensor(method.latent_std) + torch.tensor(
        method.latent_mean
    )
    return kept


@case(ctor="SLatGaussianDecoder")
def gaussian_decoder(case: Case) -> Outputs:
    config = GaussianDecoderConfig.from_dict(case.config)
    decoder = case.fill(GaussianDecoder(config))
    outputs, coords = _run_trunk(case, decoder)
    raw = decoder(_latent(case), case.inputs["mv_color"], case.inputs["mv_normal"])
    outputs |= {"raw": raw, "offset_perturbation": decoder.offset_perturbation}
    for item in range(int(coords[:, 0].max()) + 1):
        rows = coords[:, 0] == item
        gaussians = decoder.represent(coords[rows], raw[rows])
        outputs |= _gaussian_fields(gaussians, config.representation_config, f"g{item}_")
    return outputs


@case(ctor="SLatMeshDecoder")
def mesh_decoder(case: Case) -> Outputs:
    config = MeshDecoderConfig.from_dict(case.config)
    decoder = case.fill(MeshDecoder(config))
    outputs, _ = _run_trunk(case, decoder)
    fine = decoder(_latent(case), case.inputs["mv_color"], case.inputs["mv_normal"])
    outputs |= {"raw": fine.feats, "raw_coords": fine.coords}
    for item in range(len(fine.sites.lengths)):
        rows = fine.coords[:, 0] == item
        mesh = extract_mesh(
            fine.coords[rows, 1:], fine.feats[rows], decoder.mesh_resolution, faithful=True
        )
        assert mesh.attributes is not None
        assert [len(mesh.vertices), len(mesh.faces)] == case.document["mesh_counts"][item]
        outputs |= {
            f"mesh{item}_vertices": torch.from_numpy(mesh.vertices),
            f"mesh{item}_faces": torch.from_numpy(mesh.faces),
            f"mesh{item}_attrs": torch.from_numpy(mesh.attributes),
        }
    return outputs


@case(outputs={"get_xyz", "covariance6"})
def gaussian_activations(case: Case) -> Outputs:
    c, i = case.config, case.inputs
    config = GaussianConfig(
        minimum_scale=c["mininum_kernel_size"],
        scaling_bias=c["scaling_bias"],
        opacity_bias=c["opacity_bias"],
    )
    raw = RawGaussians(i["_xyz"], i["_features_dc"], i["_scaling"], i["_rotation"], i["_opacity"])
    covariance = torch.from_numpy(raw.activate(config).covariance())
    return {
        **_gaussian_fields(raw, config, ""),
        "covariance6": covariance[:, [0, 0, 0, 1, 1, 2], [0, 1, 2, 1, 2, 2]],
        "scale_bias": torch.tensor([inverse_softplus(config.scaling_bias)]),
        "opacity_bias": torch.tensor([inverse_sigmoid(config.opacity_bias)]),
    }


@case(outputs={"vert_coords", "vert_sdf_deform"})
def mesh_extraction(case: Case) -> Outputs:
    coords, feats, res = case.inputs["coords"][:, 1:], case.inputs["feats"], case.document["res"]
    corners = average_corners(coords, feats, res)
    mesh = extract_mesh(coords, feats, res, faithful=True)
    assert mesh.attributes is not None
    return {
        "vert_coords": corners.coords(),
        "vert_sdf_deform": torch.cat([corners.sdf[:, None], corners.deform], dim=-1),
        "vertices": torch.from_numpy(mesh.vertices),
        "faces": torch.from_numpy(mesh.faces),
        "vertex_attrs": torch.from_numpy(mesh.attributes),
    }


@small_amplitude("sparse_block")
def small_sparse_block(case: Case) -> Outputs:
    c, i = case.config["sparse_block"], case.inputs
    block = MultiviewBlock(c["channels"], c["num_heads"], c["mlp_ratio"], c["mv_dim"])
    case.fill(block, "sparse_block")
    x = Sites(i["coords"])
    # Every voxel reads cells of its own: views 0 and 2, then views 1 and 3, normal before colour.
    normal, colour = (i[name].unflatten(1, (2, 2, c["mv_dim"])) for name in ("bn", "bc"))
    views = [
        CellFeatures(
            torch.cat([normal[:, :, parity].flatten(1), colour[:, :, parity].flatten(1)], dim=1),
            torch.arange(len(x)),
        )
        for parity in (0, 1)
    ]
    windows = x.windows(c["window_size"], c["shift_window"])
    return {"sparse_block": block(i["sp"], windows, views)}


@small_amplitude("res_block")
def small_residual_block(case: Case) -> Outputs:
    x = SparseTensor(Sites(case.inputs["coords"]), case.inputs["sp"])
    return {"res_block": _residual(case, "res_block")(x, case.inputs["re"]).feats}


@small_amplitude("subdivide_block")
def small_subdivide_block(case: Case) -> Outputs:
    x = SparseTensor(Sites(case.inputs["coords"]), case.inputs["sp"])
    return {"subdivide_block": _subdivide_block(case, x).feats}


@small_amplitude("mod_sparse_block")
def small_modulated_block(case: Case) -> Outputs:
    i = case.inputs
    x = SparseTensor(Sites(i["coords"]), i["sp"])
    heads = case.config["mod_sparse_block"]["num_heads"]
    return {"mod_sparse_block": _modulated(case, "mod_sparse_block", x, i["sm"], i["sc"], heads)}


def _shape(case: Case, entry: str, key: str) -> list[int]:
    shape: list[int] = case.document["weights"][entry]["keys"][key]
    return shape


def _convolution(case: Case, entry: str) -> SubmanifoldConv3d:
    shape = _shape(case, entry, "conv.weight")
    return SubmanifoldConv3d(shape[-1], shape[0])


def _pointwise(case: Case, entry: str) -> PointwiseConv3d:
    shape = _shape(case, entry, "conv.weight")
    return PointwiseConv3d(shape[-1], shape[0])


def _self_attention(case: Case, entry: str, *, rms: bool = False) -> torch.nn.Module:
    c = case.config
    return case.fill(SelfAttention(c["channels"], c["heads"], qk_rms_norm=rms), entry)


def _windowed(attention: torch.nn.Module, feats: Tensor, windows: Windows) -> Tensor:
    out: Tensor = attention(feats[windows.order], windows.lengths)
    return out[windows.place]


def _window_ids(windows: Windows) -> Tensor:
    lengths = torch.tensor(windows.lengths)
    return torch.arange(len(lengths)).repeat_interleave(lengths)[windows.place]


def _cross_attention(case: Case, x: SparseTensor) -> Tensor:
    c = case.config
    attention = CrossAttention(c["channels"], c["ctx_channels"], c["heads"])
    case.fill(attention, "attn_cross")
    keys = attention.context_keys(case.inputs["context"])
    out: Tensor = attention(x.feats, keys, x.sites.lengths)
    return out


def _modulated(
    case: Case, entry: str, x: SparseTensor, time: Tensor, context: Tensor, heads: int
) -> Tensor:
    channels = x.feats.shape[1]
    block = case.fill(ModulatedBlock(channels, context.shape[-1], heads), entry)
    assert isinstance(block, ModulatedBlock)
    out: Tensor = block(
        x.feats, block.modulation(time), block.context_keys(context), x.sites.lengths
    )
    return out


def _residual(case: Case, entry: str, resample: Resample = Resample.NONE) -> torch.nn.Module:
    out, *_, channels = _shape(case, entry, "conv1.conv.weight")
    width = _shape(case, entry, "emb_layers.1.weight")[1]
    return case.fill(SparseResidualBlock(channels, out, width, resample), entry)


def _subdivide_block(case: Case, x: SparseTensor) -> SparseTensor:
    out, *_, channels = _shape(case, "subdivide_block", "out_layers.0.conv.weight")
    block = case.fill(SubdivideBlock(channels, out), "subdivide_block")
    found: SparseTensor = block(x)
    return found


def _taps(module: torch.nn.Module, names: dict[str, str]) -> dict[str, Tensor]:
    """Collect the output of the last block of each named list in the dictionary that is returned.

    Only the first run of the module is recorded.
    """
    taps: dict[str, Tensor] = {}
    for blocks, name in names.items():

        def keep(_: Any, __: Any, out: Any, name: str = name) -> None:
            taps.setdefault(name, out.feats if isinstance(out, SparseTensor) else out)

        getattr(module, blocks)[-1].register_forward_hook(keep)
    return taps


def _latent(case: Case) -> SparseTensor:
    return SparseTensor(Sites(case.inputs["coords"]), case.inputs["slat"])


def _run_trunk(case: Case, decoder: DecoderTrunk) -> tuple[Outputs, Tensor]:
    """What the kit taps inside the trunk, and the coordinates."""
    latent = _latent(case)
    blocks: list[Tensor] = []
    hooks = [
        block.register_forward_hook(lambda _, __, out: blocks.append(out))
        for block in decoder.blocks
    ]
    color, normal = case.inputs["mv_color"], case.inputs["mv_normal"]
    decoder.trunk(latent, color, normal)
    for hook in hooks:
        hook.remove()
    outputs = {"block0": blocks[0], "block_last": blocks[-1]}

    dim = decoder.trunk_config.mv_dim
    even, odd = (v.feats[v.cell] for v in decoder.read_views(latent, color, normal))  # (N, 4 dim)
    per_voxel = torch.stack([even.unflatten(1, (4, dim)), odd.unflatten(1, (4, dim))], dim=2)
    normal_rows, colour_rows = per_voxel.flatten(1).split(4 * dim, dim=1)  # views 0, 1, 2, 3
    outputs |= {"mv_normal_vox": normal_rows, "mv_color_vox": colour_rows}
    return outputs, latent.coords


def _gaussian_fields(raw: RawGaussians, config: GaussianConfig, prefix: str) -> Outputs:
    active = raw.activate(config)
    return {
        f"{prefix}_xyz": raw.xyz,
        f"{prefix}_features_dc": raw.features_dc,
        f"{prefix}_scaling": raw.scaling,
        f"{prefix}_rotation": raw.rotation,
        f"{prefix}_opacity": raw.opacity,
        f"{prefix}get_xyz": torch.from_numpy(active.xyz),
        f"{prefix}get_scaling": torch.from_numpy(active.scale),
        f"{prefix}get_rotation": torch.from_numpy(active.rotation),
        f"{prefix}get_opacity": torch.from_numpy(active.opacity)[:, None],
        f"{prefix}get_features": raw.features_dc,
    }


def _method() -> Any:
    from deployments.checkpoints.method import MethodConfig

    return MethodConfig()

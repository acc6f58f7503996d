"""The decoder that places a handful of Gaussians around every voxel (model.md 13, 14)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from deployments.layers.sparse.tensor import SparseTensor
from deployments.stage2.gaussians import Gaussians
from deployments.stage2.models.config import GaussianConfig, GaussianDecoderConfig
from deployments.stage2.models.decoder_trunk import DecoderTrunk

_FIELDS = {"_xyz": 3, "_features_dc": 3, "_scaling": 3, "_rotation": 4, "_opacity": 1}
_HARMONIC = 0.28209479177387814  # the spherical harmonic of degree 0


@dataclass(frozen=True)
class RawGaussians:
    """M Gaussians before their activations; names and meaning as in the official code."""

    xyz: Tensor  # (M, 3) in the unit cube
    features_dc: Tensor  # (M, 1, 3) coefficients of degree 0
    scaling: Tensor  # (M, 3)
    rotation: Tensor  # (M, 4) w, x, y, z, to be added to the identity
    opacity: Tensor  # (M, 1)

    def activate(self, config: GaussianConfig) -> Gaussians:
        """World frame, positive scales, unit quaternions, opacity and colour as numbers."""
        scale = F.softplus(self.scaling + inverse_softplus(config.scaling_bias))
        rotation = self.rotation + self.rotation.new_tensor([1.0, 0.0, 0.0, 0.0])
        opacity = torch.sigmoid(self.opacity + inverse_sigmoid(config.opacity_bias))
        values = (
            self.xyz - 0.5,
            (scale.square() + config.minimum_scale**2).sqrt(),
            F.normalize(rotation, dim=-1),
            opacity[:, 0],
            (_HARMONIC * self.features_dc[:, 0] + 0.5).clamp(min=0),
        )
        return Gaussians(*(value.float().cpu().numpy() for value in values))


class GaussianDecoder(DecoderTrunk):
    """Trunk, layer norm, one linear layer."""

    offset_perturbation: Tensor

    def __init__(self, config: GaussianDecoderConfig, dtype: torch.dtype = torch.float32) -> None:
        super().__init__(config, dtype)
        self.config = config
        representation = config.representation_config
        channels = sum(_FIELDS.values()) * representation.num_gaussians
        self.out_layer = nn.Linear(config.model_channels, channels)
        self.register_buffer("offset_perturbation", starting_places(representation))

    def forward(self, latent: SparseTensor, color: Tensor, normal: Tensor) -> Tensor:
        """Latents (N, 8), features (B, 4, G, G, F) -> raw channels (N, 14 x Gaussians)."""
        h = self.trunk(latent, color, normal)
        h = F.layer_norm(h.to(self.out_layer.weight.dtype), h.shape[-1:])  # eps 1e-5
        return self.out_layer(h)

    def represent(self, coords: Tensor, raw: Tensor) -> RawGaussians:
        """Voxels (N, 4) and their raw channels -> M = N x Gaussians, voxel after voxel."""
        config = self.config.representation_config
        rates, count = dict(config.rates), config.num_gaussians
        split = torch.split(raw.float(), [width * count for width in _FIELDS.values()], dim=-1)
        fields = {
            name: values.view(-1, count, width) * rates[name]
            for (name, width), values in zip(_FIELDS.items(), split, strict=True)
        }
        offset = fields["_xyz"]
        if config.perturb_offset:
            offset = offset + self.offset_perturbation
        reach = 0.5 * config.voxel_size / self.config.resolution
        centre = (coords[:, None, 1:].float() + 0.5) / self.config.resolution
        return RawGaussians(
            xyz=(centre + offset.tanh() * reach).flatten(0, 1),
            features_dc=fields["_features_dc"].reshape(-1, 1, 3),
            scaling=fields["_scaling"].flatten(0, 1),
            rotation=fields["_rotation"].flatten(0, 1),
            opacity=fields["_opacity"].flatten(0, 1),
        )


def starting_places(config: GaussianConfig) -> Tensor:
    """Raw offsets that spread a voxel's Gaussians over a Hammersley sequence, (G, 3)."""
    count = config.num_gaussians
    places = [(i / count, radical_inverse(i, 2), radical_inverse(i, 3)) for i in range(count)]
    centred = 2 * torch.tensor(places, dtype=torch.float64) - 1
    return torch.atanh(centred / config.voxel_size).float()


def radical_inverse(index: int, base: int) -> float:
    """The digits of ``index`` mirrored at the point: 0 <= value < 1."""
    value, place = 0.0, 1.0
    while index:
        index, digit = divmod(index, base)
        place /= base
        value += digit * place
    return value


def inverse_softplus(value: float) -> float:
    """x with softplus(x) = value."""
    return float(value + torch.tensor(-value, dtype=torch.float64).expm1().neg().log())


def inverse_sigmoid(value: float) -> float:
    """x with sigmoid(x) = value."""
    return float(torch.logit(torch.tensor(value, dtype=torch.float64)))

"""The two kinds of blocks in which pictures and structure exchange features (model.md 6.6).

``StructureSync``: every voxel reads the four pixels that see it. ``PictureSync``: every pixel reads
the voxels along its viewing axis. Key names keep the official spellings.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from deployments.layers.group_norm import group_norm
from deployments.layers.pointwise import convolve, layer_norm
from deployments.stage1.models.attention import CrossAttention
from deployments.stage1.models.cell_means import cell_means
from deployments.stage1.models.correspondence import BODY_VIEWS, picks_of_pixels, picks_of_voxels
from deployments.stage1.models.multiview_block import DOMAINS, FeedForward

_GROUPS = 32
_GROUP_EPS = 1e-5
_LAYER_EPS = 1e-6


class _Resample(nn.Module):
    """Group norm, convolution, GELU, then the mean over the cells of the other side's grid."""

    def __init__(self, channels: int, grid: int, dimensions: int) -> None:
        super().__init__()
        convolution = nn.Conv2d if dimensions == 2 else nn.Conv3d
        self.conv = nn.Sequential(
            nn.GroupNorm(_GROUPS, channels, eps=_GROUP_EPS),
            convolution(channels, channels, 3, padding=1),
        )
        self.grid = grid

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, S, S[, S]) -> (B, grid^2 or grid^3, C)."""
        norm, convolution = self.conv
        h = F.gelu(convolve(convolution, group_norm(x, norm, silu=False)))  # type: ignore[arg-type]
        return cell_means(h.movedim(1, -1), self.grid)


class StructureSync(nn.Module):
    """Structure tokens read the normal half of the body views."""

    def __init__(
        self, picture_channels: int, channels: int, heads: int, head_dim: int, views: int, grid: int
    ) -> None:
        super().__init__()
        self.views = views
        self.normStructure1 = nn.LayerNorm(channels, eps=_LAYER_EPS)
        self.normStructure2 = nn.LayerNorm(channels, eps=_LAYER_EPS)
        self.imagedownsample = _Resample(picture_channels, grid, dimensions=2)
        self.input_layer_mv = nn.Linear(picture_channels, picture_channels)
        self.input_layer_stucture = nn.Linear(channels, channels)
        self.output_layer_stucture = nn.Linear(channels, channels)
        self.ffn_stucture = FeedForward(channels)
        self.cross_attn_MV_to_Structure = CrossAttention(
            channels, picture_channels, heads, head_dim
        )

    def picture_features(self, pictures: Tensor) -> Tensor:
        """(B, C', S, S) -> (B, grid^2, C')."""
        tokens = self.input_layer_mv(pictures.permute(0, 2, 3, 1))
        return self.imagedownsample(tokens.permute(0, 3, 1, 2))

    def forward(self, pictures: Tensor, structure: Tensor) -> Tensor:
        """Pictures (G V 2, C', S, S) and tokens (G, grid^3, C) -> tokens (G, grid^3, C)."""
        halves = pictures.view(-1, self.views, DOMAINS, *pictures.shape[1:])
        normals = halves[:, :BODY_VIEWS, 0]
        features = self.picture_features(normals.flatten(0, 1)).unflatten(0, (-1, BODY_VIEWS))
        seen = picks_of_voxels(self.imagedownsample.grid, pictures.device)
        s = self.input_layer_stucture(structure)
        h = layer_norm(s, self.normStructure1)
        s = s + self.cross_attn_MV_to_Structure.read(h, features.flatten(1, 2), seen)
        s = s + self.ffn_stucture(layer_norm(s, self.normStructure2))
        return structure + self.output_layer_stucture(s)


class PictureSync(nn.Module):
    """Pixels of the body views read the structure, normal and colour with weights of their own."""

    def __init__(
        self,
        channels: int,
        token_channels: int,
        heads: int,
        head_dim: int,
        views: int,
        size: int,
    ) -> None:
        super().__init__()
        self.views = views
        self.voxeldownsample = _Resample(token_channels, size, dimensions=3)
        self.input_layer_mv = nn.Linear(channels, channels)
        self.input_layer_stucture = nn.Linear(token_channels, token_channels)
        self.output_layer_no = nn.Linear(channels, channels)
        self.output_layer_clr = nn.Linear(channels, channels)
        self.ffn_no = FeedForward(channels)
        self.ffn_clr = FeedForward(channels)
        shape = (channels, token_channels, heads, head_dim)
        self.cross_attn_Structure_to_color = CrossAttention(*shape)
        self.cross_attn_Structure_to_normal = CrossAttention(*shape)

    def voxel_features(self, structure: Tensor) -> Tensor:
        """Tokens (G, R^3, C) -> (G, size^3, C)."""
        tokens = self.input_layer_stucture(structure)
        grid = round(tokens.shape[1] ** (1 / 3))
        cells = tokens.view(tokens.shape[0], grid, grid, grid, -1)
        return self.voxeldownsample(cells.permute(0, 4, 1, 2, 3))

    def forward(self, pictures: Tensor, structure: Tensor) -> Tensor:
        """Pictures (G V 2, C, S, S) and tokens (G, R^3, C') -> pictures of the same shape."""
        voxels = self.voxel_features(structure)  # (G, S^3, C')
        channels_last = pictures.permute(0, 2, 3, 1)
        halves = channels_last.reshape(-1, self.views, DOMAINS, *channels_last.shape[1:])
        body = self.input_layer_mv(halves[:, :BODY_VIEWS])  # (G, 4, 2, S, S, C)
        normal = self._read(
            body[:, :, 0],
            voxels,
            self.cross_attn_Structure_to_normal,
            self.ffn_no,
            self.output_layer_no,
        )
        colour = self._read(
            body[:, :, 1],
            voxels,
            self.cross_attn_Structure_to_color,
            self.ffn_clr,
            self.output_layer_clr,
        )
        read = torch.stack([normal, colour], dim=2)
        out = torch.cat([halves[:, :BODY_VIEWS] + read, halves[:, BODY_VIEWS:]], dim=1)
        return out.flatten(0, 2).permute(0, 3, 1, 2)

    def _read(
        self, m: Tensor, voxels: Tensor, attn: CrossAttention, ffn: FeedForward, output: nn.Linear
    ) -> Tensor:
        """One domain's pixels (G, 4, S, S, C), voxels (G, S^3, C') -> what is added to them."""
        seen = picks_of_pixels(self.voxeldownsample.grid, m.device)
        h = _layer_norm(m).flatten(1, 3)  # (G, 4 S^2, C)
        m = m + attn.read(h, voxels, seen).view(m.shape)
        m = m + ffn(_layer_norm(m))
        return output(m)


def _layer_norm(x: Tensor) -> Tensor:
    return F.layer_norm(x, x.shape[-1:], eps=_LAYER_EPS)

"""Which class each component's configuration describes: the table behind ``models verify``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn

from deployments.checkpoints.component import Component


def build_network(component: Component, config: dict[str, Any]) -> nn.Module:
    """Build the network of a component from its config.json, in float32, with no weights loaded.

    Inside ``build_without_memory`` this costs milliseconds at any size. Raises what the network's
    own configuration raises.
    """
    return _BUILDERS[component](config)


def _joint_model(config: dict[str, Any]) -> nn.Module:
    from deployments.stage1.models.config import JointModelConfig
    from deployments.stage1.models.joint_model import JointModel

    return JointModel(JointModelConfig.from_dict(config))


def _structure_decoder(config: dict[str, Any]) -> nn.Module:
    from deployments.stage1.models.structure_decoder import StructureDecoder, StructureDecoderConfig

    return StructureDecoder(StructureDecoderConfig.from_dict(config))


def _vae(config: dict[str, Any]) -> nn.Module:
    from deployments.stage1.picture_vae import build_vae

    network: nn.Module = build_vae(config)
    return network


def _image_encoder(config: dict[str, Any]) -> nn.Module:
    from deployments.stage1.conditioning import build_clip

    network: nn.Module = build_clip(config)
    return network


def _text_encoder(config: dict[str, Any]) -> nn.Module:
    from deployments.checkpoints.prompts import TextEncoder

    return TextEncoder(config)


def _dinov2(config: dict[str, Any]) -> nn.Module:
    from deployments.layers.dinov2 import build_dinov2

    network: nn.Module = build_dinov2(config)
    return network


def _latent_flow(config: dict[str, Any]) -> nn.Module:
    from deployments.stage2.models.config import LatentFlowConfig
    from deployments.stage2.models.latent_flow import LatentFlow

    return LatentFlow(LatentFlowConfig.from_dict(config))


def _gaussian_decoder(config: dict[str, Any]) -> nn.Module:
    from deployments.stage2.models.config import GaussianDecoderConfig
    from deployments.stage2.models.gaussian_decoder import GaussianDecoder

    return GaussianDecoder(GaussianDecoderConfig.from_dict(config))


def _mesh_decoder(config: dict[str, Any]) -> nn.Module:
    from deployments.stage2.models.config import MeshDecoderConfig
    from deployments.stage2.models.mesh_decoder import MeshDecoder

    return MeshDecoder(MeshDecoderConfig.from_dict(config))


_BUILDERS: dict[Component, Callable[[dict[str, Any]], nn.Module]] = {
    Component.JOINT_MODEL: _joint_model,
    Component.STRUCTURE_DECODER: _structure_decoder,
    Component.VAE: _vae,
    Component.IMAGE_ENCODER: _image_encoder,
    Component.TEXT_ENCODER: _text_encoder,
    Component.DINOV2: _dinov2,
    Component.LATENT_FLOW: _latent_flow,
    Component.GAUSSIAN_DECODER: _gaussian_decoder,
    Component.MESH_DECODER: _mesh_decoder,
}

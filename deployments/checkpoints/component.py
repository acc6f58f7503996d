"""The networks of a checkpoint tree and where each one lives in it (model.md section 1)."""

from __future__ import annotations

from enum import Enum


class Component(str, Enum):
    """One network of the method; the value is its folder below the root of the tree."""

    JOINT_MODEL = "OneStage/SyncHuman_2D3DCrossSpaceDiffusion"
    STRUCTURE_DECODER = "OneStage/sparse_structure_decoder"
    VAE = "OneStage/vae"
    IMAGE_ENCODER = "OneStage/image_encoder"
    TEXT_ENCODER = "OneStage/text_encoder"
    LATENT_FLOW = "SecondStage/ckpts/slat_flow"
    GAUSSIAN_DECODER = "SecondStage/ckpts/decoder_GS"
    MESH_DECODER = "SecondStage/ckpts/decoder_Mesh"
    DINOV2 = "DINOv2"

    @property
    def in_official_tree(self) -> bool:
        """False for DINOv2, which its own project publishes."""
        return self is not Component.DINOV2


STAGE1_COMPONENTS = (
    Component.JOINT_MODEL,
    Component.STRUCTURE_DECODER,
    Component.VAE,
    Component.IMAGE_ENCODER,
    Component.DINOV2,
)
STAGE2_COMPONENTS = (
    Component.LATENT_FLOW,
    Component.GAUSSIAN_DECODER,
    Component.MESH_DECODER,
    Component.DINOV2,
)

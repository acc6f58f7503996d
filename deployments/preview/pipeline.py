"""A textured 3D model from Stage 1 alone, for every run that has no Stage 2."""

from __future__ import annotations

from dataclasses import replace

from deployments.contracts import GenerationOptions, MultiviewResult
from deployments.preview.solid import preview_mesh
from deployments.stage2.finishing import finish
from deployments.stage2.warm_up import warm_up

FACES = 30_000
LARGEST_TEXTURE = 2048


class PreviewPipeline:
    """Voxels, smoothed and cut to the silhouettes, in the colours of the five pictures."""

    def __init__(self) -> None:
        warm_up()

    def __call__(self, multiview: MultiviewResult, options: GenerationOptions) -> bytes:
        """The preview as a GLB, y up, facing +z.

        Honours texture size (up to 2048) and format and a lower face target.

        Raises:
            GenerationError: Stage 1 found no voxels, or voxels and pictures do not fit together.
        """
        mesh = preview_mesh(multiview.voxels, multiview.grid, multiview.normal[:4])
        asset = finish(
            mesh,
            multiview,
            replace(
                options,
                texture_size=min(options.texture_size, LARGEST_TEXTURE),
                target_faces=min(options.target_faces or FACES, FACES),
                formats=(),
            ),
            provenance={
                "kind": "preview: Stage 1 only, no Stage 2 geometry",
                "seed": multiview.seed,
                "stage1_steps": multiview.steps,
            },
        )
        return asset.glb

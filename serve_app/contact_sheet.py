"""One picture of a whole result: colour views, normal maps, and the GLB from four sides."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from PIL import Image

from deployments.contracts import VIEWS

CELL = 256  # pixels of a picture
GAP = 8
BACKGROUND = (255, 255, 255)
GLB_AZIMUTHS = (0.0, 90.0, 180.0, 270.0)


def contact_sheet(result: Path) -> bytes:
    """The sheet as PNG, from the folder of an unpacked result.

    Rows: five colour views, five normal maps, the model from the front and around. The model is
    ``stage2/output.glb``, or ``stage1/preview.glb`` where Stage 2 did not run.
    """
    rows: list[list[Image.Image]] = [
        [Image.open(result / "stage1" / f"{kind}_{view}.png") for view in range(len(VIEWS))]
        for kind in ("color", "normal")
    ]
    rows.append(_model_views(result))
    step = CELL + GAP
    sheet = Image.new("RGB", (len(VIEWS) * step + GAP, len(rows) * step + GAP), BACKGROUND)
    for row, pictures in enumerate(rows):
        for column, picture in enumerate(pictures):
            cell = picture.convert("RGB").resize((CELL, CELL), Image.Resampling.LANCZOS)
            sheet.paste(cell, (GAP + column * step, GAP + row * step))
    buffer = io.BytesIO()
    sheet.save(buffer, "PNG")
    return buffer.getvalue()


def _model_views(result: Path) -> list[Image.Image]:
    from deployments.stage2.render import render_glb

    full = result / "stage2" / "output.glb"
    model = full if full.exists() else result / "stage1" / "preview.glb"
    pictures = render_glb(model.read_bytes(), GLB_AZIMUTHS, CELL)
    return [Image.fromarray(np.asarray(picture)) for picture in pictures]

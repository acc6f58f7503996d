"""Prompt embeddings: ten fixed sentences through the checkpoint's own text encoder, once.

The method never sees other text, so the embeddings are part of a checkpoint in all but name. They
come, in this order, from ``prompt_embeddings.safetensors`` in the tree, from the two ``.pt`` files
that the official code carries, or from the text encoder; what was computed is kept in the tree.
Source: model.md 5.3.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import load_file, save_file
from torch import nn

from deployments.checkpoints.component import Component
from deployments.checkpoints.weight_files import load_pickle
from deployments.errors import CheckpointError

if TYPE_CHECKING:
    from deployments.checkpoints.tree import TreeCheckpoint

CACHE_FILE = "prompt_embeddings.safetensors"
OFFICIAL_FILES = ("normal_embeds.pt", "clr_embeds.pt")  # each (7, 77, D)
TOKENS = 77

# Token ids of "a rendering image of 3D human, {view} view, {kind} map." in CLIP's byte-pair
# vocabulary of 49 408 entries (derived with the table in the open_clip_torch 3.3.0 wheel and
# checked with transformers' CLIPTokenizer). The tokenizer of Stable Diffusion 2.x pads with id 0.
_START, _END, _PAD = 49406, 49407, 0
_BEFORE_VIEW = (320, 21339, 2867, 539, 274, 323, 2751, 267)  # a rendering image of 3 d human ,
_VIEW = {"front": 2184, "right": 1155, "back": 893, "left": 1823, "face": 1710}
_AFTER_VIEW = (1093, 267)  # view ,
_KIND = {"normal": 5967, "color": 3140}
_AFTER_KIND = (3923, 269)  # map .

# Rows of the official files: front, front_right, right, back, left, front_left, face.
_OFFICIAL_ROWS = (0, 2, 3, 4, 6)

# Per-row standard deviations of the official embeddings (prompt_embeddings_check.json of the parity
# kit), rows in our order.
_OFFICIAL_DEVIATIONS = (
    1.0259661674499512,
    1.025278925895691,
    1.0262776613235474,
    1.0259990692138672,
    1.0277769565582275,
    1.025620460510254,
    1.0245258808135986,
    1.0253328084945679,
    1.0252995491027832,
    1.027133584022522,
)


def prompt_token_ids() -> torch.Tensor:
    """(10, 77) token ids: the five views of VIEWS as normal maps, then as colour maps."""
    rows = []
    for kind in ("normal", "color"):
        for view in ("front", "right", "back", "left", "face"):
            words = (*_BEFORE_VIEW, _VIEW[view], *_AFTER_VIEW, _KIND[kind], *_AFTER_KIND)
            row = [_START, *words, _END]
            rows.append(row + [_PAD] * (TOKENS - len(row)))
    return torch.tensor(rows)


class TextEncoder(nn.Module):
    """CLIP's text encoder under its official parameter names (model.md 1)."""

    def __init__(self, config: dict[str, Any]) -> None:
        from transformers import CLIPTextConfig, CLIPTextModel

        super().__init__()
        self.text_model = CLIPTextModel(CLIPTextConfig(**config))

    def forward(self, token_ids: torch.Tensor) -> torch.Tensor:
        """(B, 77) ids to (B, 77, D): the last hidden state, no padding mask."""
        hidden: torch.Tensor = self.text_model(input_ids=token_ids).last_hidden_state
        return hidden


def read_or_compute_prompt_embeddings(checkpoint: TreeCheckpoint) -> torch.Tensor:
    """(10, 77, D) of a tree, computed and kept on first use."""
    stored = read_prompt_embeddings(checkpoint.root)
    if stored is not None:
        return stored
    directory = checkpoint.directory(Component.TEXT_ENCODER)
    if not (directory / "config.json").is_file():
        raise CheckpointError(
            f"checkpoint '{checkpoint.name}' has no prompt embeddings: put {CACHE_FILE} or "
            f"{' and '.join(OFFICIAL_FILES)} into {checkpoint.root}, or the text encoder into "
            f"{Component.TEXT_ENCODER.value}/",
            code="checkpoint_missing",
            component=Component.TEXT_ENCODER.value,
        )
    embeddings = compute_prompt_embeddings(checkpoint)
    try:
        save_file({"prompt_embeddings": embeddings}, checkpoint.root / CACHE_FILE)
    except OSError:
        # A read-only tree is fine: the next start computes them again.
        return embeddings
    return embeddings


def compute_prompt_embeddings(checkpoint: TreeCheckpoint) -> torch.Tensor:
    """Run the text encoder of a tree in float32 on the CPU; stored as float16 like the official."""
    config = checkpoint.config(Component.TEXT_ENCODER)
    encoder = checkpoint.load(
        Component.TEXT_ENCODER, lambda: TextEncoder(config), device="cpu", dtype=torch.float32
    )
    with torch.inference_mode():
        embeddings: torch.Tensor = encoder(prompt_token_ids())
    return embeddings.half().clone()


def read_prompt_embeddings(root: Path) -> torch.Tensor | None:
    """The embeddings that a tree holds in files, or None."""
    cache = root / CACHE_FILE
    if cache.is_file():
        return _checked(load_file(cache).get("prompt_embeddings"), cache)
    for folder in (root, root / "OneStage"):
        if all((folder / name).is_file() for name in OFFICIAL_FILES):
            return _read_official_files(folder)
    return None


def match_official_statistics(embeddings: torch.Tensor) -> bool:
    """Whether (10, 77, 1024) embeddings are the official ones, up to half-precision noise."""
    found = embeddings.float().flatten(1).std(dim=1)
    return bool((found - torch.tensor(_OFFICIAL_DEVIATIONS)).abs().max() < 5e-4)


def _read_official_files(folder: Path) -> torch.Tensor:
    halves = []
    for name in OFFICIAL_FILES:
        stored = load_pickle(folder / name)
        shape = list(stored.shape) if isinstance(stored, torch.Tensor) else type(stored).__name__
        if not isinstance(shape, list) or len(shape) != 3 or shape[:2] != [7, TOKENS]:
            raise CheckpointError(
                f"{folder / name} is {shape}; expected a tensor [7, {TOKENS}, D], one row per view "
                "prompt of the official code"
            )
        halves.append(stored[list(_OFFICIAL_ROWS)])
    return torch.cat(halves)


def _checked(embeddings: torch.Tensor | None, path: Path) -> torch.Tensor:
    if embeddings is None or embeddings.ndim != 3 or embeddings.shape[:2] != (10, TOKENS):
        shape = None if embeddings is None else list(embeddings.shape)
        raise CheckpointError(
            f"{path} must hold 'prompt_embeddings' of shape [10, {TOKENS}, D], found {shape}; "
            "delete it to have it computed again"
        )
    return embeddings

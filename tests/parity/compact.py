"""Makes the repository's own copy of a kit: ``python tests/parity/compact.py KIT cases``.

Large expected tensors are thinned along their longest axis, which the runner follows by the suffix
of their names; JSON loses its indentation. Cases made from photographs stay out.
"""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import torch
from case import SUBSAMPLED
from safetensors.torch import load_file, save_file

# Made from photographs (with twins from our own sample picture), and what a smaller case shows.
_LEFT_OUT = {"s1_image_preprocessing", "dinov2_conditioning", "s2_mesh_extraction_two_blobs_32"}
_THIN_ABOVE = 60_000  # bytes
_STRIDE = 7


def compact_case(source: Path, target: Path) -> None:
    """Copy one case folder."""
    target.mkdir(parents=True, exist_ok=True)
    document = json.loads((source / "case.json").read_text())
    for file in source.iterdir():
        if file.name not in ("case.json", "outputs.safetensors"):
            shutil.copyfile(file, target / file.name)
    outputs = {}
    if (source / "outputs.safetensors").exists():
        # What is compared bit for bit is small or compresses well, and stays whole.
        exact = bool(document["tolerance"].get("exact"))
        for name, tensor in load_file(source / "outputs.safetensors").items():
            thin = not exact and tensor.is_floating_point() and tensor.nbytes > _THIN_ABOVE
            if thin and tensor.ndim > 1 and not SUBSAMPLED.search(name):
                axis = max(range(tensor.ndim), key=lambda n: tensor.shape[n])
                kept = torch.arange(0, tensor.shape[axis], _STRIDE)
                name, tensor = f"{name}_every{_STRIDE}", tensor.index_select(axis, kept)
            outputs[name] = tensor.contiguous()
        save_file(outputs, target / "outputs.safetensors")
        document["outputs"] = {
            name: [list(tensor.shape), str(tensor.dtype).removeprefix("torch.")]
            for name, tensor in outputs.items()
        }
    _write(target / "case.json", document)


def compact_kit(source: Path, target: Path) -> None:
    """Copy the cases and the manifests of a kit."""
    for file in sorted(source.glob("*/case.json")):
        if file.parent.name not in _LEFT_OUT:
            compact_case(file.parent, target / file.parent.name)
    for file in sorted(source.glob("manifest_*.json")):
        _write(target / file.name, json.loads(file.read_text()))


def _write(file: Path, document: object) -> None:
    file.write_text(json.dumps(document, separators=(",", ":")) + "\n")


if __name__ == "__main__":
    compact_kit(Path(sys.argv[1]), Path(sys.argv[2]))

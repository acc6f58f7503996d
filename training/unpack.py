"""Join ``weights.tar.N`` pieces to a checkpoint tree: ``python -m training.unpack FOLDER TREE``."""

from __future__ import annotations

import argparse
import io
import tarfile
from pathlib import Path


def unpack(folder: Path, tree: Path) -> None:
    """Read all pieces in order and extract them."""
    pieces = sorted(folder.glob("weights.tar.*"), key=lambda path: int(path.suffix[1:]))
    if not pieces:
        raise SystemExit(f"no weights.tar.N in {folder}")
    data = b"".join(piece.read_bytes() for piece in pieces)
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        archive.extractall(tree, filter="data")
    total = sum(path.stat().st_size for path in tree.rglob("*.safetensors"))
    print(f"{tree}: {total / 1e6:.1f} MB of weights from {len(pieces)} pieces")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("tree", type=Path)
    arguments = parser.parse_args()
    unpack(arguments.folder, arguments.tree)

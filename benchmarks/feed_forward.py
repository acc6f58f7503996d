"""Ways to compute a gated feed-forward layer, at the official sizes of the multi-view UNet.

    python -m benchmarks.feed_forward --tiles 128:64:64:3:4,128:128:64:3:8

Prints milliseconds of x + W2 geglu(W1 h + b): the library's product and a pass that gates it, all
rows at once or a few pictures at a time, then our product that gates what it stores, by tile
(ROWS:COLUMNS:DEPTH:STAGES:WARPS); needs a CUDA device.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import astuple
from functools import partial

import torch
from torch import Tensor, nn

from benchmarks.pointwise import LEVELS, ROWS, milliseconds
from deployments.layers.geglu_triton import Tile, geglu, linear_geglu
from deployments.layers.pointwise import add_product

AT_ONCE = (20, 5, 2, 1)  # pictures
Gate = Callable[[Tensor], Tensor]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--tiles", default="128:64:64:3:4,128:128:64:3:8")
    arguments = parser.parse_args()
    tiles = [Tile(*map(int, text.split(":"))) for text in arguments.tiles.split(",")]
    with torch.inference_mode(), torch.device("cuda"):
        for size, channels in LEVELS:
            compare(size, channels, tiles)


def compare(size: int, channels: int, tiles: list[Tile]) -> None:
    """A line for every way at one level of the UNet."""
    first = nn.Linear(channels, 8 * channels).half()
    second = 0.01 * torch.randn(channels, 4 * channels, dtype=torch.float16)
    x = torch.randn(ROWS, size**2, channels, dtype=torch.float16)
    h = torch.randn_like(x)
    expected = geglu(first(h)).float()

    def library(tokens: Tensor) -> Tensor:
        return geglu(first(tokens))

    def ours(tokens: Tensor, tile: Tile) -> Tensor:
        return linear_geglu(tokens, first.weight, first.bias, tile)

    ways: list[tuple[str, int, Gate]] = [(f"library, {n} pictures", n, library) for n in AT_ONCE]
    ways += [(_name(tile), ROWS, partial(ours, tile=tile)) for tile in tiles]
    for name, at_once, gate in ways:
        label = f"{size:3d} px {name:24s}"
        try:
            error = float((gate(h).float() - expected).norm() / expected.norm())
            alone = milliseconds(partial(gate, h), 10)
            ms = milliseconds(partial(_layer, x, h, gate, second, at_once), 10)
            print(f"{label} {ms:7.3f} ms, gated product {alone:7.3f} ms, {error:.0e}")
        except Exception as failed:  # the next one is to run whatever failed here
            print(f"{label} FAILED {str(failed)[:300]}", flush=True)


def _name(tile: Tile) -> str:
    return ":".join(map(str, astuple(tile)))


def _layer(x: Tensor, h: Tensor, gate: Gate, second: Tensor, at_once: int) -> None:
    for part, tokens in zip(x.split(at_once), h.split(at_once), strict=True):
        add_product(part, gate(tokens), second)


if __name__ == "__main__":
    main()

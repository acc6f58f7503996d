"""Flags that more than one command has, and values with a range."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import get_args

from deployments.errors import InputError
from serve_app.settings import STAGE1_STEPS, STAGE2_STEPS, AttentionBackend

ATTENTION_BACKENDS = get_args(AttentionBackend)


def whole_number(low: int, high: int) -> Callable[[str], int]:
    """An argument type for ``low`` to ``high``; a refusal names both."""

    def parse(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            value = low - 1
        if not low <= value <= high:
            raise argparse.ArgumentTypeError(f"{text!r} is no whole number from {low} to {high}")
        return value

    return parse


def add_mode(parser: argparse.ArgumentParser) -> None:
    """The modes of unified_api.md, which exclude each other."""
    modes = parser.add_mutually_exclusive_group()
    modes.add_argument(
        "--stage1-only",
        action="store_true",
        help="only Stage 1: five colour views, five normal maps, a preview mesh",
    )
    modes.add_argument(
        "--graceful-fallback",
        action="store_true",
        help="Stage 1's result where Stage 2 can not run, in place of an error",
    )


def add_steps(parser: argparse.ArgumentParser) -> None:
    """Sampling steps; None where nothing was said."""
    low, high = STAGE1_STEPS
    parser.add_argument(
        "--stage1-steps",
        type=whole_number(low, high),
        metavar="N",
        help=f"sampling steps of Stage 1, {low} to {high} (default 50)",
    )
    low, high = STAGE2_STEPS
    parser.add_argument(
        "--stage2-steps",
        type=whole_number(low, high),
        metavar="N",
        help=f"sampling steps of Stage 2, {low} to {high} (default 25)",
    )


def add_backends(parser: argparse.ArgumentParser) -> None:
    """Weights, device and what computes."""
    parser.add_argument(
        "--checkpoint",
        help="embedded, official, a folder, random:small or random:official "
        "(default: official if it was pulled, else embedded)",
    )
    parser.add_argument("--device", help="auto, cpu, cuda or cuda:N (default auto)")
    parser.add_argument(
        "--attn-backend",
        choices=ATTENTION_BACKENDS,
        help="attention library (default auto: the best that works here)",
    )
    kaolin = parser.add_mutually_exclusive_group()
    kaolin.add_argument(
        "--require-kaolin",
        action="store_true",
        default=None,
        help="extract meshes with kaolin, and not at all without it (default)",
    )
    kaolin.add_argument(
        "--no-kaolin",
        dest="require_kaolin",
        action="store_false",
        default=None,
        help="extract meshes with the built-in extractor",
    )


def result_folders(pictures: Sequence[Path], out: Path) -> list[Path]:
    """Where each picture's result goes: one fills ``out``, several get a folder each.

    :raises InputError: when two pictures would get the same folder.
    """
    if len(pictures) == 1:
        return [out]
    folders = [out / picture.stem for picture in pictures]
    if len(set(folders)) < len(folders):  # a.png beside a.jpg
        folders = [out / picture.name for picture in pictures]
    if len(set(folders)) < len(folders):
        twice = next(folder.name for folder in folders if folders.count(folder) > 1)
        raise InputError(
            f"two pictures are named {twice}, and each gets the folder of its name. "
            "Rename one, or make them in two runs"
        )
    return folders


def chosen_mode(arguments: argparse.Namespace) -> str | None:
    """The mode that the flags name, None without one."""
    if arguments.stage1_only:
        return "stage1-only"
    return "graceful-fallback" if arguments.graceful_fallback else None

"""``synchuman demo``: the flags of demo.py."""

from __future__ import annotations

import argparse
from pathlib import Path

from serve_app.cli.arguments import whole_number


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Flags of the command."""
    parser.add_argument("--out", type=Path, default=Path("demo_out"), help="folder for the result")
    parser.add_argument("--photo", type=Path, help="another photo than the sample")
    parser.add_argument("--port", type=whole_number(1, 65535), help="port (default: a free one)")
    parser.add_argument(
        "--config",
        type=Path,
        default=Path("serve_config.yaml"),
        help="the service's configuration (default serve_config.yaml)",
    )


def run(arguments: argparse.Namespace) -> int:
    """Run the demo."""
    from serve_app.demo import run_demo

    return run_demo(
        config=arguments.config, out=arguments.out, photo=arguments.photo, port=arguments.port
    )

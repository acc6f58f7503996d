"""``synchuman models list | pull | verify``: the weights on this machine."""

from __future__ import annotations

import argparse
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Sub-commands."""
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    actions.add_parser("list", help="checkpoints by name, and which are here")
    pull = actions.add_parser("pull", help="fetch published weights once")
    pull.add_argument("name", nargs="?", default="official", help="official")
    pull.add_argument("--to", type=Path, metavar="DIR", help="a folder in place of the hub's cache")
    pull.add_argument("--revision", help="branch, tag or commit (default main)")
    verify = actions.add_parser("verify", help="compare every name and shape with the networks")
    verify.add_argument(
        "name", nargs="?", default="official", help="official, embedded or a folder"
    )


def run(arguments: argparse.Namespace) -> int:
    """Do one of them."""
    if arguments.action == "pull":
        return _pull(arguments)
    return _verify(arguments.name) if arguments.action == "verify" else _list()


def _list() -> int:
    from deployments.checkpoints.inventory import list_checkpoints

    for found in list_checkpoints():
        here = "here" if found.available else "absent"
        size = f"{found.bytes / 1e6:,.0f} MB in {found.path}" if found.path else ""
        print(f"{found.name:<16} {here:<7} {found.description}  {size}".rstrip())
    return 0


def _pull(arguments: argparse.Namespace) -> int:
    from deployments.checkpoints.download import DEFAULT_REVISION, pull

    pulled = pull(
        arguments.name,
        directory=arguments.to,
        revision=arguments.revision or DEFAULT_REVISION,
    )
    print(f"{arguments.name} is in {pulled.root}")
    print("check it with: synchuman models verify " + (str(arguments.to) if arguments.to else ""))
    return 0


def _verify(name: str) -> int:
    from deployments.checkpoints.checkpoint import EMBEDDED_DIRECTORY
    from deployments.checkpoints.download import find_official
    from deployments.checkpoints.verify import verify

    if name == "official":
        found = find_official()
        report = verify(found.root, dinov2=found.dinov2)
    else:
        report = verify(EMBEDDED_DIRECTORY if name == "embedded" else Path(name).expanduser())
    print(f"{name}: {report.root}")
    print("\n".join(report.lines()))
    return 0 if report.complete else 1

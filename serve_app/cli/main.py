"""``synchuman COMMAND``: one module a command, imported when it is the one that was asked for."""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Sequence

from pydantic import ValidationError

from deployments.errors import SyncHumanError

COMMANDS = {
    "serve": "start the service on this machine",
    "generate": "make 3D humans from pictures, here or through a running service",
    "models": "list, fetch and check the weights",
    "doctor": "say what this machine lacks",
    "demo": "start the service, send the sample photo, keep the result",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; the exit status is 0, 1 for a failure, 2 for a wrong command line."""
    words = list(sys.argv[1:] if argv is None else argv)
    parser = argparse.ArgumentParser(
        prog="synchuman", description="One photo of a person in, a textured 3D human out."
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    chosen = next((word for word in words if not word.startswith("-")), None)
    for name, summary in COMMANDS.items():
        command = commands.add_parser(name, help=summary, description=summary)
        if name == chosen:
            module = importlib.import_module(f"serve_app.cli.{name}")
            module.add_arguments(command)
            command.set_defaults(run=module.run)
    arguments = parser.parse_args(words)
    try:
        status: int = arguments.run(arguments)
    except SyncHumanError as error:
        print(f"synchuman {arguments.command}: {error.message}", file=sys.stderr)
        return 1
    except ValidationError as error:
        for fault in error.errors():
            name = ".".join(str(part) for part in fault["loc"])
            print(
                f"synchuman {arguments.command}: {name} is {fault['input']!r}: "
                f"{fault['msg'].removeprefix('Value error, ')}",
                file=sys.stderr,
            )
        return 2
    except KeyboardInterrupt:
        return 130
    return status

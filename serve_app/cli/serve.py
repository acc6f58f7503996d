"""``synchuman serve``: the whole graph on this machine until Ctrl-C.

The flags are those of unified_api.md, where the command is called ``python api_server.py``. What no
flag says comes from ``SYNCHUMAN_*`` variables and then from the defaults of settings.py.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import logging
import re
import signal
import socket
import sys
from pathlib import Path
from types import FrameType
from typing import Any

from deployments.contracts import Mode
from deployments.errors import CheckpointError, ServiceError
from serve_app.cli.arguments import add_backends, add_mode, add_steps, chosen_mode, whole_number
from serve_app.cli.backends import KAOLIN_MISSING, kaolin_problem
from serve_app.settings import AllArgs

APPLICATION = "synchuman"
DRAIN_S = 10.0  # how long Ctrl-C lets running jobs go on; those that do not end are kept queued


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Flags of the command."""
    add_mode(parser)
    add_steps(parser)
    parser.add_argument("--host", default="0.0.0.0", help="address to listen on (default: all)")
    parser.add_argument(
        "--port", type=whole_number(1, 65535), default=8000, help="port (default 8000)"
    )
    add_backends(parser)
    parser.add_argument(
        "--data",
        type=Path,
        metavar="DIR",
        help="where tmp_api_jobs/ (results) and synchuman_data/ (job table) go (default: here)",
    )
    parser.add_argument("--verbose", action="store_true", help="show the log of every replica")


def run(arguments: argparse.Namespace) -> int:
    """Serve until SIGINT or SIGTERM, each of which stops it cleanly."""
    settings = settings_from(arguments)
    if settings.mode is Mode.OFFICIAL and settings.require_kaolin:
        problem = kaolin_problem()
        if problem is not None:
            print(KAOLIN_MISSING, file=sys.stderr)
            print(
                f"({problem}; --no-kaolin takes the built-in mesh extraction instead)",
                file=sys.stderr,
            )
            return 1
    _check_port(arguments.host, arguments.port)
    if "checkpoint" not in settings.model_fields_set:
        settings = settings.model_copy(update={"checkpoint": default_checkpoint()})
    return _serve(settings, arguments)


def settings_from(arguments: argparse.Namespace) -> AllArgs:
    """The settings that the flags, the environment and the defaults make."""
    given: dict[str, Any] = {
        "mode": chosen_mode(arguments),
        **{
            name: getattr(arguments, name)
            for name in (
                "stage1_steps",
                "stage2_steps",
                "checkpoint",
                "device",
                "attn_backend",
                "require_kaolin",
            )
        },
    }
    if arguments.data is not None:
        given["storage_url"] = str(arguments.data / "tmp_api_jobs")
        given["database_url"] = f"sqlite:///{arguments.data / 'synchuman_data' / 'jobs.db'}"
    settings = AllArgs(**{name: value for name, value in given.items() if value is not None})
    if "drain_s" not in settings.model_fields_set:
        settings = settings.model_copy(update={"drain_s": DRAIN_S})
    return settings


def default_checkpoint() -> str:
    """``official`` where it was pulled, else ``embedded``."""
    from deployments.checkpoints.download import find_official

    try:
        find_official()
    except CheckpointError:
        return "embedded"
    return "official"


def _serve(settings: AllArgs, arguments: argparse.Namespace) -> int:
    import ray
    from ray import serve

    from serve_app.app import build

    _say(f"starting in mode {settings.mode.value} with checkpoint {settings.checkpoint} ...")
    level = logging.INFO if arguments.verbose else logging.ERROR
    logging.getLogger("ray.serve").setLevel(level)
    _interrupt_on(signal.SIGINT, signal.SIGTERM)
    try:
        ray.init(
            address="local",
            include_dashboard=False,
            log_to_driver=arguments.verbose,
            logging_level=level,
        )
        _interrupt_on(signal.SIGTERM)  # Ray has put its own handler there
        serve.start(http_options={"host": arguments.host, "port": arguments.port})
        serve.run(build(settings), name=APPLICATION, route_prefix="/")
        print(
            f"SyncHuman listens on {_address(arguments.host, arguments.port)} "
            f"in mode {settings.mode.value}",
            flush=True,
        )
        while True:
            signal.pause()
    except KeyboardInterrupt:
        _say("stopping; once more to stop at once ...")
        return 0
    except RuntimeError as error:  # Serve's word for a deployment that does not start
        _say("\n".join([f"the service did not start: {error}", *_reasons()]))
        return 1
    finally:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        # Ray prints the end of Serve's controller, which is what this asks for, as a failed task.
        shown = sys.stdout if arguments.verbose else io.StringIO()
        with contextlib.redirect_stdout(shown):
            with contextlib.suppress(Exception):  # what did not start can not be shut down
                serve.shutdown()
            ray.shutdown()


def _reasons() -> list[str]:
    """What Serve knows about the deployments that did not start."""
    from ray import serve

    with contextlib.suppress(Exception):  # the controller may be gone with them
        application = serve.status().applications.get(APPLICATION)
        if application is not None:
            return [
                f"{name}: {last_error(deployment.message)}"
                for name, deployment in application.deployments.items()
                if deployment.message and deployment.status.value != "HEALTHY"
            ]
    return []


def last_error(message: str) -> str:
    """The exception at the end of a stack trace, or the whole text where there is none."""
    lines = message.rstrip().splitlines()
    for number in range(len(lines) - 1, -1, -1):
        if re.match(r"[\w.]+(Error|Exception|Unavailable)\b", lines[number]):
            return "\n".join(lines[number:])
    return message.strip()


def _interrupt_on(*signals: signal.Signals) -> None:
    def interrupt(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    for number in signals:
        signal.signal(number, interrupt)


def _check_port(host: str, port: int) -> None:
    """Serve would only say so in the log of its proxy.

    :raises ServiceError: ``port_taken``.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise ServiceError(
                f"can not listen on {host}:{port}: {error.strerror}. Choose another --host or "
                "--port, or stop what listens there",
                code="port_taken",
            ) from None


def _address(host: str, port: int) -> str:
    """An address that a browser on this machine can open."""
    shown = "localhost" if host in ("0.0.0.0", "::") else f"[{host}]" if ":" in host else host
    return f"http://{shown}:{port}"


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)

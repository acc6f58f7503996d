"""``synchuman doctor``: what this machine has and lacks, each with the way to get it."""

from __future__ import annotations

import argparse
import platform
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from deployments.errors import BackendError
from serve_app.cli.backends import installed

REQUIRED = ("ray", "torch", "transformers", "fastapi", "trimesh", "numba")
PYTHONS = ((3, 10), (3, 13))


class Verdict(str, Enum):
    """How much a finding matters."""

    GOOD = "ok"
    OPTIONAL = "absent"  # something works less well, or not in every mode
    BAD = "wrong"  # the service does not start, or not as configured


@dataclass(frozen=True)
class Finding:
    """One line of the report."""

    subject: str
    verdict: Verdict
    detail: str


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Flags of the command."""
    parser.add_argument(
        "--config", type=Path, metavar="FILE", help="also check a serve configuration file"
    )


def run(arguments: argparse.Namespace) -> int:
    """Print the report; 1 when something is wrong."""
    wrong = 0
    for finding in examine(arguments.config):
        wrong += finding.verdict is Verdict.BAD
        print(f"{finding.verdict.value:>6}  {finding.subject:<26} {finding.detail}", flush=True)
    return 1 if wrong else 0


def examine(config: Path | None = None) -> Iterator[Finding]:
    """All findings, cheap ones first."""
    yield _python()
    yield from map(_package, REQUIRED)
    if installed("torch") is None:
        return  # everything below needs it
    device = _device_name()
    yield Finding("device", Verdict.GOOD, device)
    yield from _attention(device)
    yield _kaolin()
    yield _matting()
    yield _tracing()
    yield from _checkpoints()
    if config is not None:
        yield from _config(config)


def _python() -> Finding:
    low, beyond = PYTHONS
    good = low <= sys.version_info[:2] < beyond
    rule = "" if good else f"; it must be {low[0]}.{low[1]} to {beyond[0]}.{beyond[1] - 1}"
    verdict = Verdict.GOOD if good else Verdict.BAD
    return Finding("python", verdict, platform.python_version() + rule)


def _package(name: str) -> Finding:
    version = installed(name)
    if version is None:
        return Finding(name, Verdict.BAD, "not installed: pip install synchuman-serve")
    return Finding(name, Verdict.GOOD, version)


def _device_name() -> str:
    from deployments.replica import choose_device, device_name

    return device_name(choose_device("auto", card_reserved=True))


def _attention(device: str) -> Iterator[Finding]:
    from deployments.layers.attention import Backend, choose_backend
    from deployments.replica import choose_device

    place = choose_device("auto", card_reserved=True)
    for backend in Backend:
        subject = f"attention {backend.value}"
        try:
            choose_backend(backend.value, place)
        except BackendError as error:
            yield Finding(subject, Verdict.OPTIONAL, error.message)
        else:
            yield Finding(subject, Verdict.GOOD, f"usable on {device}")
    chosen = choose_backend("auto", place)
    yield Finding("attention auto", Verdict.GOOD, f"takes {chosen.value}")


def _kaolin() -> Finding:
    from deployments.stage2.mesh.kaolin_extractor import import_flexicubes

    try:
        import_flexicubes()
    except BackendError as error:
        return Finding(
            "kaolin",
            Verdict.OPTIONAL,
            f"{error.detail.get('reason', error.message)}. The built-in extractor takes over with "
            "require_kaolin: false (--no-kaolin); for kaolin itself see "
            "https://github.com/NVIDIAGameWorks/kaolin",
        )
    return Finding("kaolin", Verdict.GOOD, installed("kaolin") or "found")


def _matting() -> Finding:
    from deployments.preprocess.matting import choose_matting

    try:
        choose_matting("rembg")
    except BackendError as error:
        return Finding("matting", Verdict.OPTIONAL, error.message)
    return Finding("matting", Verdict.GOOD, f"rembg {installed('rembg')}")


def _tracing() -> Finding:
    from serve_app.tracing import INSTALL, has_exporter

    if not has_exporter():
        return Finding("tracing", Verdict.OPTIONAL, f"no spans can be sent. {INSTALL}")
    return Finding("tracing", Verdict.GOOD, f"opentelemetry {installed('opentelemetry-sdk')}")


def _checkpoints() -> Iterator[Finding]:
    from deployments.checkpoints.inventory import list_checkpoints

    for found in list_checkpoints():
        missing = Verdict.BAD if found.name == "embedded" else Verdict.OPTIONAL
        yield Finding(
            f"checkpoint {found.name}",
            Verdict.GOOD if found.available else missing,
            found.description + (f" ({found.path})" if found.path else ""),
        )


def _config(path: Path) -> Iterator[Finding]:
    from serve_app.config_check import check_file

    problems = check_file(path)
    if not problems:
        yield Finding(str(path), Verdict.GOOD, "every key is known and every value fits")
    for problem in problems:
        yield Finding(str(path), Verdict.BAD, problem)

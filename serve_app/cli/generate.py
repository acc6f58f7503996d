"""``synchuman generate photo.png -o out/``: the pipelines in this process, without Ray or HTTP.

With ``--url`` the pictures go to a running service instead (batch.py).

One picture fills the folder itself, as the ZIP of the service is laid out; several get a folder
each, named after them. Networks are loaded once.
"""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bars

from deployments.contracts import (
    GenerationOptions,
    Mode,
    OutputFormat,
    Progress,
    ProgressCallback,
    TextureFormat,
)
from deployments.errors import BackendError, GenerationError, InputError, SyncHumanError
from serve_app.cli.arguments import (
    add_backends,
    add_mode,
    add_steps,
    chosen_mode,
    result_folders,
    whole_number,
)
from serve_app.cli.serve import default_checkpoint
from serve_app.manifest import NAME, FileFacts, build_manifest
from serve_app.options import RequestOptions
from serve_app.result_files import stage1_files, stage2_files
from serve_app.settings import LiveArgs
from serve_app.storage.folder import write_whole

if TYPE_CHECKING:
    from deployments.preprocess.pipeline import PreprocessPipeline
    from deployments.preview.pipeline import PreviewPipeline
    from deployments.stage1.pipeline import Stage1Pipeline
    from deployments.stage2.pipeline import Stage2Pipeline

OPTIONS = (
    "stage1_steps",
    "stage2_steps",
    "seed",
    "guidance",
    "stage2_guidance",
    "texture_size",
    "texture_format",
    "simplify",
    "target_faces",
    "formats",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Flags of the command."""
    parser.add_argument("pictures", nargs="+", type=Path, metavar="PICTURE")
    parser.add_argument("-o", "--out", type=Path, default=Path("out"), help="folder (default out)")
    add_mode(parser)
    add_steps(parser)
    described = RequestOptions.model_fields
    for name in ("seed", "guidance", "stage2_guidance", "texture_size", "simplify", "target_faces"):
        parser.add_argument(f"--{name.replace('_', '-')}", help=described[name].description)
    parser.add_argument("--texture-format", choices=[kind.value for kind in TextureFormat])
    parser.add_argument(
        "--formats", metavar="LIST", help=", ".join(kind.value for kind in OutputFormat)
    )
    parser.add_argument(
        "--matting", choices=("auto", "rembg", "none"), help="background removal (default auto)"
    )
    add_backends(parser)
    service = parser.add_argument_group("with a running service")
    service.add_argument(
        "--url",
        help="send the pictures to the service at this address; an interrupted run goes on when "
        "it is repeated. Its API key is taken from SYNCHUMAN_API_KEY",
    )
    service.add_argument(
        "--at-once",
        type=whole_number(1, 256),
        default=8,
        metavar="N",
        help="pictures on their way at the same time (default 8)",
    )
    service.add_argument(
        "--cancel-on-interrupt", action="store_true", help="Ctrl-C cancels the jobs under way"
    )


def run(arguments: argparse.Namespace) -> int:
    """Make every picture; one that fails is told and does not stop the others."""
    asked = {name: getattr(arguments, name) for name in OPTIONS}
    given = {name: value for name, value in asked.items() if value is not None}
    asked_options = RequestOptions(mode=chosen_mode(arguments), **given)
    if arguments.url is not None:
        from serve_app.cli import batch

        return batch.run(arguments, asked_options)
    options = asked_options.resolve(LiveArgs(mode=Mode.OFFICIAL))
    console = Console(stderr=True)
    with console.status("loading the networks"):
        pipelines = load_pipelines(arguments, options.mode)
    if pipelines.stage2_reason is not None and options.mode is Mode.GRACEFUL_FALLBACK:
        console.print(f"Stage 2 is left out: {pipelines.stage2_reason}", markup=False)
    failed = 0
    folders = result_folders(arguments.pictures, arguments.out)
    for picture, out in zip(arguments.pictures, folders, strict=True):
        began = time.monotonic()
        try:
            with _bars(console) as bars:
                files = make(picture, out, options, pipelines, _shown_by(bars))
        except (SyncHumanError, OSError) as error:
            failed += 1
            print(f"{picture}: {error}", file=sys.stderr)
            continue
        print(f"{picture} -> {out}: {len(files)} files in {time.monotonic() - began:.1f} s")
    return 1 if failed else 0


@dataclasses.dataclass(frozen=True)
class Pipelines:
    """Everything loaded. ``stage2`` is None where it is not wanted, or can not work."""

    checkpoint: str
    preprocess: PreprocessPipeline
    stage1: Stage1Pipeline
    stage2: Stage2Pipeline | None
    preview: PreviewPipeline
    stage2_reason: str | None = None


def load_pipelines(arguments: argparse.Namespace, mode: Mode) -> Pipelines:
    """Load what a mode needs.

    :raises BackendError: in the official mode, when Stage 2 can not work here.
    """
    from deployments.checkpoints.checkpoint import open_checkpoint
    from deployments.preprocess.pipeline import PreprocessPipeline
    from deployments.preview.pipeline import PreviewPipeline
    from deployments.replica import choose_device
    from deployments.stage1.pipeline import Stage1Pipeline
    from deployments.stage2.pipeline import Stage2Pipeline

    name = arguments.checkpoint or default_checkpoint()
    checkpoint = open_checkpoint(name)
    common: dict[str, Any] = {
        "device": choose_device(arguments.device or "auto", card_reserved=True),
        "attention": arguments.attn_backend or "auto",
    }
    stage2, reason = None, None
    if mode is Mode.STAGE1_ONLY:
        reason = "the mode is stage1-only"
    else:
        extraction = "kaolin" if arguments.require_kaolin else "native"
        try:
            stage2 = Stage2Pipeline.from_checkpoint(checkpoint, extraction=extraction, **common)
        except BackendError as error:
            if mode is Mode.OFFICIAL:
                raise
            reason = error.message
    return Pipelines(
        checkpoint=name,
        preprocess=PreprocessPipeline(checkpoint.method, matting=arguments.matting or "auto"),
        stage1=Stage1Pipeline.from_checkpoint(checkpoint, **common),
        stage2=stage2,
        preview=PreviewPipeline(),
        stage2_reason=reason,
    )


def make(
    picture: Path,
    out: Path,
    options: GenerationOptions,
    pipelines: Pipelines,
    progress: ProgressCallback,
) -> list[str]:
    """One picture into one folder; returns the names of the files in it."""
    data = _read(picture)
    progress(Progress("preprocess", 0, 1, "prepare"))
    prepared = pipelines.preprocess(data)
    progress(Progress("preprocess", 1, 1, "prepare"))
    warnings = prepared.warnings
    multiview = pipelines.stage1(prepared, options, progress=progress)
    files = {f"stage1/{name}": body for name, body in stage1_files(prepared, multiview).items()}
    stages: dict[str, dict[str, Any]] = {
        "stage1": {"status": "completed", "timings": multiview.timings}
    }
    if pipelines.stage2 is not None:
        asset = pipelines.stage2(prepared, multiview, options, progress=progress)
        files |= {f"stage2/{name}": body for name, body in stage2_files(asset).items()}
        stages["stage2"] = {
            "status": "completed",
            "timings": asset.timings,
            "statistics": dataclasses.asdict(asset.statistics),
        }
    else:
        progress(Progress("preview", 0, 1, "preview"))
        try:
            files["stage1/preview.glb"] = pipelines.preview(multiview, options)
        except GenerationError as error:  # the views are a result without it
            warnings = (*warnings, f"no preview.glb: {error.message}")
        progress(Progress("preview", 1, 1, "preview"))
        stages["stage2"] = {"status": "skipped", "reason": pipelines.stage2_reason}
    for name, body in files.items():
        write_whole(out / name, body)
    facts = {
        name: FileFacts(size=len(body), sha256=hashlib.sha256(body).hexdigest())
        for name, body in files.items()
    }
    manifest = build_manifest(
        job_id=picture.stem,
        checkpoint=pipelines.checkpoint,
        options=options,
        stages=stages,
        files=facts,
        input_sha256=hashlib.sha256(data).hexdigest(),
        warnings=warnings,
    )
    write_whole(out / NAME, manifest)
    return [*facts, NAME]


def _read(picture: Path) -> bytes:
    try:
        return picture.read_bytes()
    except FileNotFoundError:
        raise InputError(
            f"there is no file {picture}. Give the path of a PNG, JPEG or WebP picture",
            code="image_missing",
        ) from None


def _bars(console: Console) -> Bars:
    return Bars(
        TextColumn("{task.description:<12}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.fields[message]}"),
        console=console,
    )


def _shown_by(bars: Bars) -> Callable[[Progress], None]:
    """A progress callback with one bar a stage."""
    shown: dict[str, Any] = {}

    def show(progress: Progress) -> None:
        if progress.stage not in shown:
            shown[progress.stage] = bars.add_task(
                progress.stage, total=progress.steps, message=progress.message
            )
        bars.update(
            shown[progress.stage],
            completed=progress.step,
            total=progress.steps,
            message=progress.message,
        )

    return show

"""serve_app/ingress/archive.py: the golden layout of unified_api.md, packed the same each time."""

from __future__ import annotations

import io
import zipfile

from deployments.contracts import Mode
from serve_app.ingress.archive import write_archive
from serve_app.jobs.protocol import JobStatus, JobView
from serve_app.storage import open_storage

DOCUMENT = [
    *(f"stage1/color_{view}.png" for view in range(5)),
    *(f"stage1/normal_{view}.png" for view in range(5)),
    "stage1/input.png",
    "stage2/output.glb",
    "stage2/output_mesh.ply",
]


def packed(view: JobView) -> bytes:
    buffer = io.BytesIO()
    write_archive(view, open_storage("memory://archive"), buffer)
    return buffer.getvalue()


def finished_job() -> JobView:
    storage = open_storage("memory://archive")
    names = [*DOCUMENT, "manifest.json"]
    for name in names:
        storage.write(f"a1/2/{name}", name.encode() * 1000)
    return JobView(
        id="a1",
        status=JobStatus.SUCCEEDED,
        mode=Mode.OFFICIAL,
        options={},
        created_at=1_700_000_000.0,
        finished_at=1_700_000_060.0,
        files={name: f"a1/2/{name}" for name in names},
    )


def test_the_layout_is_the_documents() -> None:
    with zipfile.ZipFile(io.BytesIO(packed(finished_job()))) as archive:
        assert archive.testzip() is None
        assert archive.namelist() == sorted([*DOCUMENT, "manifest.json"])
        assert archive.read("stage2/output.glb") == b"stage2/output.glb" * 1000
        entry = archive.getinfo("stage2/output_mesh.ply")
        assert entry.compress_type == zipfile.ZIP_DEFLATED
        assert entry.date_time == (2023, 11, 14, 22, 14, 20)
        assert entry.external_attr >> 16 == 0o644
        assert archive.getinfo("stage1/color_0.png").compress_type == zipfile.ZIP_STORED


def test_the_same_job_gives_the_same_bytes() -> None:
    assert packed(finished_job()) == packed(finished_job())


def test_a_clock_before_zip_was_invented() -> None:
    view = finished_job().model_copy(update={"finished_at": 0.0, "created_at": 0.0})
    with zipfile.ZipFile(io.BytesIO(packed(view))) as archive:
        assert archive.infolist()[0].date_time == (1980, 1, 1, 0, 0, 0)

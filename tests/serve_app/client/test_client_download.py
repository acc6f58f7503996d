"""serve_app/client/download.py: whole or not at all, continued where it stopped."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from live_service import GLB, LiveService

from serve_app.client import DownloadDamaged, NotThere, RequestRefused, ServiceUnavailable
from serve_app.client.download import _inside, is_complete


@pytest.fixture
def job(client: Any, portrait: bytes) -> str:
    """A job that has succeeded."""
    job_id: str = client.submit(portrait).job_id
    client.wait(job_id)
    return job_id


def files_in(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def test_all_files_under_the_names_of_the_zip(client: Any, job: str, tmp_path: Path) -> None:
    out = tmp_path / "out"
    places = client.download(job, out)
    assert {place.relative_to(out).as_posix() for place in places} == files_in(out)
    assert len(places) == 14
    assert (out / "stage2" / "output.glb").read_bytes() == GLB
    assert json.loads((out / "manifest.json").read_text())["job_id"] == job
    assert is_complete(out, job)
    assert not is_complete(out, "another")


def test_only_what_is_asked_for(client: Any, job: str, tmp_path: Path) -> None:
    client.download(job, tmp_path / "out", only=["stage2/*", "*/color_?.png"])
    assert files_in(tmp_path / "out") == {
        "stage2/output.glb",
        "stage2/output_mesh.ply",
        *(f"stage1/color_{view}.png" for view in range(5)),
    }


def test_a_cut_download_goes_on_where_it_stopped(
    client: Any, service: LiveService, job: str, tmp_path: Path
) -> None:
    service.wire.cuts += [("output.glb", 1_000_000), ("output.glb", 500_000)]
    client.download(job, tmp_path / "out", only=["stage2/output.glb"])
    assert (tmp_path / "out/stage2/output.glb").read_bytes() == GLB
    asked = [head.get("range") for head in service.wire.requests("GET", "output.glb")]
    assert asked == [None, "bytes=1000000-", "bytes=1500000-"]


def test_what_another_process_began_is_continued(
    client: Any, service: LiveService, job: str, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    part = out / f".part-{job}" / "stage2" / "output.glb"
    part.parent.mkdir(parents=True)
    part.write_bytes(GLB[:2_000_000])
    client.download(job, out)
    first = service.wire.requests("GET", "output.glb")[0]
    assert first["range"] == "bytes=2000000-"
    assert is_complete(out, job)
    assert not part.exists()


@pytest.mark.parametrize("left", [b"x" * 1000, GLB + b"x", b"x" * len(GLB)])
def test_a_part_of_something_else_is_thrown_away(
    client: Any, job: str, tmp_path: Path, left: bytes
) -> None:
    part = tmp_path / f"out/.part-{job}/stage2/output.glb"
    part.parent.mkdir(parents=True)
    part.write_bytes(left)
    client.download(job, tmp_path / "out")
    assert is_complete(tmp_path / "out", job)


def test_what_is_there_is_not_fetched_again(
    client: Any, service: LiveService, job: str, tmp_path: Path
) -> None:
    client.download(job, tmp_path / "out")
    (tmp_path / "out/stage1/color_0.png").write_bytes(b"changed")
    assert not is_complete(tmp_path / "out", job)
    service.wire.seen.clear()
    client.download(job, tmp_path / "out")
    fetched = [
        path.rpartition("/files/")[2] for _, path, _ in service.wire.seen if "/files/" in path
    ]
    assert fetched == ["manifest.json", "stage1/color_0.png"]
    assert is_complete(tmp_path / "out", job)


def test_nothing_half_lies_in_the_folder(
    client: Any, service: LiveService, job: str, tmp_path: Path
) -> None:
    problem = {"content-type": "application/problem+json"}
    service.wire.cuts += [("output.glb", 1_000_000)]
    service.wire.answers += [("output_mesh.ply", 503, problem, b"{}")] * 500
    with pytest.raises(ServiceUnavailable):
        client.download(job, tmp_path / "out")
    shown = {name for name in files_in(tmp_path / "out") if not name.startswith(".part-")}
    assert "manifest.json" not in shown
    assert "stage2/output_mesh.ply" not in shown
    assert (tmp_path / "out/stage2/output.glb").read_bytes() == GLB


def test_a_file_that_is_changed_on_the_way(
    client: Any, service: LiveService, job: str, tmp_path: Path
) -> None:
    service.wire.answers += [("color_0.png", 200, {"content-length": "5"}, b"other")] * 2
    with pytest.raises(DownloadDamaged, match=r"color_0\.png does not have the SHA-256"):
        client.download(job, tmp_path / "out")
    service.wire.answers += [("color_0.png", 200, {"content-length": "5"}, b"other")]
    client.download(job, tmp_path / "out")  # once may be chance
    assert is_complete(tmp_path / "out", job)


def test_jobs_without_files(client: Any, service: LiveService, job: str, tmp_path: Path) -> None:
    client.cancel(job)
    with pytest.raises(NotThere) as caught:
        client.download(job, tmp_path / "out")
    assert caught.value.code == "job_expired"
    assert not (tmp_path / "out").exists()


def test_a_job_that_has_not_ended(client: Any, service: LiveService, portrait: bytes) -> None:
    import asyncio

    service.do(lambda: setattr(service.jobs.script, "hold", asyncio.Event()))
    with pytest.raises(RequestRefused) as caught:
        client.download(client.submit(portrait).job_id, "out")
    assert caught.value.code == "not_finished"


@pytest.mark.parametrize("name", ["/etc/passwd", "../x", "stage1/../../x", "a\\b", "c:/x"])
def test_a_service_can_not_write_outside_the_folder(name: str) -> None:
    with pytest.raises(DownloadDamaged, match="leads out of the folder"):
        _inside(name)

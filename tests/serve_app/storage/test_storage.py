"""serve_app/storage: whole-or-nothing, checked files, links of a finished job, errors."""

from __future__ import annotations

import hashlib
import os
import pickle
import threading
from pathlib import Path

import pytest

from deployments.errors import ServiceError
from serve_app.storage import LocalStorage, RemoteStorage, Storage, open_storage


@pytest.fixture(params=["local", "memory", "renaming", "s3"])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> Storage:
    if request.param == "local":
        return open_storage(tmp_path / "jobs")
    if request.param == "s3":
        return open_storage(request.getfixturevalue("bucket").url(tmp_path.name))
    remote = open_storage(f"memory://jobs-{tmp_path.name}-{request.param}")
    assert isinstance(remote, RemoteStorage)
    remote._appears_whole = request.param == "memory"
    return remote


def test_what_was_written_is_read_back(storage: Storage) -> None:
    data = os.urandom(3 << 20)
    digest = storage.write("a1/3/stage1/color_0.png", data)
    assert digest == hashlib.sha256(data).hexdigest()
    assert storage.sha256("a1/3/stage1/color_0.png") == digest
    assert storage.read("a1/3/stage1/color_0.png") == data
    assert storage.size("a1/3/stage1/color_0.png") == len(data)
    with storage.open("a1/3/stage1/color_0.png") as file:
        assert file.read(10) == data[:10]


def test_list_and_delete_a_tree(storage: Storage) -> None:
    for path in ("a1/input.png", "a1/1/stage1/x.png", "a1/2/stage1/x.png", "b2/input.png"):
        storage.write(path, b"x")
    assert storage.list("a1") == ["a1/1/stage1/x.png", "a1/2/stage1/x.png", "a1/input.png"]
    storage.delete("a1/1")
    assert storage.list("a1") == ["a1/2/stage1/x.png", "a1/input.png"]
    storage.delete("a1")
    storage.delete("a1")
    assert storage.list("a1") == []
    assert storage.exists("b2/input.png")
    assert not storage.exists("a1/input.png")


def test_missing_files_are_not_found(storage: Storage) -> None:
    for call in (storage.read, storage.size, storage.sha256):
        with pytest.raises(ServiceError) as caught:
            call("a1/nothing.png")
        assert caught.value.code == "not_found"


@pytest.mark.parametrize(
    "path", ["", "/etc/passwd", "a/../../b", "a//b", "a/./b", "..", "a\\..\\b", "a/\0b"]
)
def test_paths_can_not_leave_the_root(storage: Storage, path: str) -> None:
    with pytest.raises(ServiceError, match="relative path") as caught:
        storage.write(path, b"x")
    assert caught.value.code == "not_found"


def test_storage_travels_to_another_process(storage: Storage) -> None:
    storage.write("a1/x", b"1")
    assert pickle.loads(pickle.dumps(storage)).read("a1/x") == b"1"


def test_a_reader_never_sees_half_a_file(tmp_path: Path) -> None:
    storage = LocalStorage(tmp_path)
    versions = [bytes([letter]) * (1 << 20) for letter in b"ab"]
    storage.write("a1/x", versions[0])
    done = threading.Event()

    def rewrite() -> None:
        for turn in range(40):
            storage.write("a1/x", versions[turn % 2])
        done.set()

    writer = threading.Thread(target=rewrite)
    writer.start()
    while not done.is_set():
        assert storage.read("a1/x") in versions
    writer.join()
    assert storage.list("a1") == ["a1/x"]


def test_a_failed_write_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage = LocalStorage(tmp_path)
    storage.write("a1/x", b"old")

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(ServiceError, match="No space left") as caught:
        storage.write("a1/x", b"new")
    assert caught.value.code == "storage_unavailable"
    assert storage.read("a1/x") == b"old"
    assert {file.name for file in (tmp_path / "a1").iterdir()} == {"x", ".x.sha256"}


def test_a_root_that_can_not_be_made_is_reported(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(ServiceError) as caught:
        LocalStorage(tmp_path / "file").write("a1/x", b"1")
    assert caught.value.code == "storage_unavailable"


def test_an_unknown_protocol_is_reported() -> None:
    with pytest.raises(ServiceError, match="nosuchthing") as caught:
        open_storage("nosuchthing://bucket")
    assert caught.value.code == "storage_unavailable"


def test_publish_shows_the_layout_of_the_document(tmp_path: Path) -> None:
    storage = open_storage(tmp_path)
    for path in ("1/stage1/color_0.png", "1/stage2/output.glb", "2/stage1/color_0.png"):
        storage.write(f"a1/{path}", path.encode())
    storage.write("a1/2/manifest.json", b"{}")

    storage.publish("a1", "a1/1")
    assert (tmp_path / "a1/stage1/color_0.png").read_bytes() == b"1/stage1/color_0.png"
    assert (tmp_path / "a1/stage2_output/output.glb").exists()
    assert not (tmp_path / "a1/manifest.json").exists()

    storage.publish("a1", "a1/2")  # a later attempt wins; it has no second stage
    assert (tmp_path / "a1/stage1_output/color_0.png").read_bytes() == b"2/stage1/color_0.png"
    assert not os.path.lexists(tmp_path / "a1/stage2")
    assert (tmp_path / "a1/manifest.json").read_bytes() == b"{}"
    assert (tmp_path / "a1/stage1").readlink() == Path("2/stage1")
    assert storage.list("a1") == [
        "a1/1/stage1/color_0.png",
        "a1/1/stage2/output.glb",
        "a1/2/manifest.json",
        "a1/2/stage1/color_0.png",
    ]
    storage.delete("a1")
    assert list(tmp_path.iterdir()) == []


def test_stage_location_is_what_the_answer_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    storage = open_storage("tmp_api_jobs")
    storage.write("a1/1/stage1/color_0.png", b"x")
    assert storage.stage_location("a1", "stage1", "a1/1/stage1") == "tmp_api_jobs/a1/1/stage1"
    storage.publish("a1", "a1/1")
    expected = "tmp_api_jobs/a1/stage1_output"
    assert storage.stage_location("a1", "stage1", "a1/1/stage1") == expected
    absolute = open_storage(tmp_path / "tmp_api_jobs")
    assert absolute.stage_location("a1", "stage1", "a1/1/stage1") == expected
    remote = open_storage("memory://bucket/jobs")
    remote.publish("a1", "a1/1")
    assert remote.stage_location("a1", "stage1", "a1/1/stage1") == (
        "memory://bucket/jobs/a1/1/stage1"
    )

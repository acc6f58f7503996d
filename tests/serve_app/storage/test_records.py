"""serve_app/storage/records.py: digests beside the files, checked at every reading."""

from __future__ import annotations

import hashlib
import subprocess
from pathlib import Path

import pytest

from deployments.errors import ServiceError
from serve_app.storage import LocalStorage, Storage, open_storage
from serve_app.storage.records import is_record, record_of

PLACE = "a1/1/stage2/output.glb"


@pytest.fixture
def storage(tmp_path: Path) -> Storage:
    return LocalStorage(tmp_path)


def refused(storage: Storage) -> None:
    for call in (storage.open, storage.read, storage.sha256):
        with pytest.raises(ServiceError, match=r"output\.glb is damaged") as caught:
            call(PLACE)
        assert caught.value.code == "artifact_damaged"


@pytest.mark.parametrize("content", [b"glTF in other words", b"glT", b""])
def test_a_file_that_changed_is_never_handed_out(
    storage: Storage, tmp_path: Path, content: bytes
) -> None:
    storage.write(PLACE, b"glTF as it was made")
    (tmp_path / PLACE).write_bytes(content)
    refused(storage)


def test_it_can_be_written_again(storage: Storage, tmp_path: Path) -> None:
    storage.write(PLACE, b"glTF as it was made")
    (tmp_path / PLACE).write_bytes(b"something else")
    storage.write(PLACE, b"glTF as it was made")
    assert storage.read(PLACE) == b"glTF as it was made"
    storage.write(PLACE, b"a second version")
    assert storage.read(PLACE) == b"a second version"


@pytest.mark.parametrize("record", ["", "\n", "0" * 64 + "  output.glb\n"])
def test_a_damaged_record_says_damaged(storage: Storage, tmp_path: Path, record: str) -> None:
    storage.write(PLACE, b"glTF as it was made")
    (tmp_path / record_of(PLACE)).write_text(record)
    refused(storage)


def test_a_file_of_a_release_without_records_is_read(storage: Storage, tmp_path: Path) -> None:
    storage.write(PLACE, b"old")
    (tmp_path / record_of(PLACE)).unlink()
    assert storage.read(PLACE) == b"old"


def test_records_are_in_the_form_of_sha256sum(storage: Storage, tmp_path: Path) -> None:
    storage.write(PLACE, b"glTF")
    folder = (tmp_path / PLACE).parent
    done = subprocess.run(
        ["sha256sum", "--check", ".output.glb.sha256"], cwd=folder, capture_output=True, text=True
    )
    assert (done.returncode, done.stdout) == (0, "output.glb: OK\n")


def test_a_record_goes_with_its_file(storage: Storage, tmp_path: Path) -> None:
    storage.write(PLACE, b"glTF")
    storage.delete(PLACE)
    assert list((tmp_path / PLACE).parent.iterdir()) == []


def test_a_record_is_known_by_its_name() -> None:
    assert record_of("a1/x.png") == "a1/.x.png.sha256"
    assert record_of("x") == ".x.sha256"
    assert is_record(record_of("a1/x.png"))
    assert not is_record("a1/x.sha256")


def test_other_file_systems_have_records_too(tmp_path: Path) -> None:
    remote = open_storage(f"memory://records-{tmp_path.name}")
    remote.write(PLACE, b"glTF as it was made")
    import fsspec

    files = fsspec.filesystem("memory")
    files.pipe_file(f"/records-{tmp_path.name}/{PLACE}", b"something else")
    refused(remote)
    digest = hashlib.sha256(b"again").hexdigest()
    assert remote.write(PLACE, b"again") == digest == remote.sha256(PLACE)

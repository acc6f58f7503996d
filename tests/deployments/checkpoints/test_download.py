from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import huggingface_hub.constants
import pytest

from deployments.checkpoints.checkpoint import open_checkpoint
from deployments.checkpoints.component import Component
from deployments.checkpoints.download import (
    DINOV2_REPOSITORY,
    OFFICIAL_REPOSITORY,
    find_official,
    pull,
)
from deployments.checkpoints.inventory import list_checkpoints
from deployments.checkpoints.prompts import CACHE_FILE
from deployments.errors import CheckpointError


class Hub:
    """Stands where the hub's client is: copies from a tree, remembers what it was asked for."""

    def __init__(self, tree: Path, cache: Path) -> None:
        self.tree, self.cache = tree, cache
        self.asked: list[tuple[str, dict[str, Any]]] = []

    def __call__(self, repository: str, **keywords: Any) -> str:
        self.asked.append((repository, keywords))
        target = keywords["local_dir"] or self.cache / repository.replace("/", "--")
        folders = {OFFICIAL_REPOSITORY: ["OneStage", "SecondStage"], DINOV2_REPOSITORY: ["DINOv2"]}
        for folder in folders[repository]:
            into = target if repository == DINOV2_REPOSITORY else target / folder
            shutil.copytree(self.tree / folder, into, dirs_exist_ok=True)
        return str(target)


def test_pull_into_a_folder_makes_a_tree_that_opens(complete_tree: Path, tmp_path: Path) -> None:
    hub = Hub(complete_tree, tmp_path / "cache")

    pulled = pull(directory=tmp_path / "own", revision="abc123", snapshot=hub)

    assert [name for name, _ in hub.asked] == [OFFICIAL_REPOSITORY, DINOV2_REPOSITORY]
    assert hub.asked[0][1]["revision"] == "abc123"
    assert pulled.dinov2 is None
    checkpoint = open_checkpoint(str(pulled.root))
    assert checkpoint.config(Component.DINOV2)["patch_size"] == 14
    # The text encoder has done its work: serving reads what it gave.
    assert (pulled.root / CACHE_FILE).is_file()


def test_a_local_pth_of_dinov2_is_not_fetched_again(complete_tree: Path, tmp_path: Path) -> None:
    own = tmp_path / "own" / "DINOv2"
    own.mkdir(parents=True)
    (own / "dinov2_vitl14_reg4_pretrain.pth").touch()
    hub = Hub(complete_tree, tmp_path / "cache")

    pull(directory=tmp_path / "own", snapshot=hub)

    assert [name for name, _ in hub.asked] == [OFFICIAL_REPOSITORY]


def test_pull_into_the_cache_keeps_dinov2_apart(complete_tree: Path, tmp_path: Path) -> None:
    pulled = pull(snapshot=Hub(complete_tree, tmp_path))

    assert pulled.dinov2 == tmp_path / DINOV2_REPOSITORY.replace("/", "--")


def test_a_failing_hub_says_how_to_go_on() -> None:
    def offline(repository: str, **_: Any) -> str:
        raise ConnectionError("no route to host")

    with pytest.raises(
        CheckpointError, match=r"no route to host.*What arrived is kept.*again"
    ) as caught:
        pull(snapshot=offline)
    assert caught.value.code == "checkpoint_download"


def test_only_official_can_be_pulled() -> None:
    with pytest.raises(CheckpointError, match="'embedded' can not be pulled"):
        pull("embedded")


@pytest.fixture
def hub_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    return tmp_path


def put_in_cache(cache: Path, repository: str, tree: Path, folders: list[str]) -> Path:
    """Lay out a snapshot as the hub's client does."""
    commit = "0123456789012345678901234567890123456789"
    base = cache / f"models--{repository.replace('/', '--')}"
    (base / "refs").mkdir(parents=True)
    (base / "refs" / "main").write_text(commit)
    snapshot = base / "snapshots" / commit
    snapshot.mkdir(parents=True)
    for folder in folders:
        if repository == DINOV2_REPOSITORY:
            shutil.copytree(tree / folder, snapshot, dirs_exist_ok=True)
        else:
            shutil.copytree(tree / folder, snapshot / folder)
    return snapshot


def test_never_pulled_names_the_command(hub_cache: Path) -> None:
    with pytest.raises(CheckpointError, match="run 'synchuman models pull official' once"):
        find_official()
    with pytest.raises(CheckpointError, match="revision 1f2e3d"):
        open_checkpoint("official@1f2e3d")


def test_official_opens_from_the_hub_s_cache_offline(hub_cache: Path, complete_tree: Path) -> None:
    snapshot = put_in_cache(
        hub_cache, OFFICIAL_REPOSITORY, complete_tree, ["OneStage", "SecondStage"]
    )
    dinov2 = put_in_cache(hub_cache, DINOV2_REPOSITORY, complete_tree, ["DINOv2"])

    checkpoint = open_checkpoint("official")

    assert checkpoint.name == "official"
    assert checkpoint.config(Component.DINOV2)["image_size"] == 126
    found = find_official()
    assert (found.root, found.dinov2) == (snapshot, dinov2)


def test_listing_says_what_is_here(hub_cache: Path, complete_tree: Path) -> None:
    before = {listing.name: listing for listing in list_checkpoints()}
    assert set(before) == {"embedded", "official", "random:official", "random:small"}
    assert not before["official"].available
    assert "pull official" in before["official"].description

    put_in_cache(hub_cache, OFFICIAL_REPOSITORY, complete_tree, ["OneStage", "SecondStage"])
    after = {listing.name: listing for listing in list_checkpoints()}
    assert after["official"].available
    assert after["official"].bytes > 1e6

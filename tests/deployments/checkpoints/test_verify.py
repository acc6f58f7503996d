from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from deployments.checkpoints.component import Component
from deployments.checkpoints.verify import Finding, PartReport, Report, verify
from deployments.errors import CheckpointError


@pytest.fixture
def tree(complete_tree: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(complete_tree, tmp_path / "tree"))


def part(report: Report, name: str) -> PartReport:
    return next(part for part in report.parts if part.name == name)


def test_a_whole_tree_is_complete(complete_tree: Path) -> None:
    report = verify(complete_tree)

    assert report.complete, report.lines()
    assert len(report.parts) == 9  # eight networks and the prompts
    joint = part(report, Component.JOINT_MODEL.value)
    assert joint.parameters > 14e6
    assert joint.bytes > 2 * joint.parameters
    assert "F16" in joint.detail


def test_what_is_missing_is_said_with_the_way_to_get_it(tree: Path) -> None:
    shutil.rmtree(tree / Component.DINOV2.value)
    (tree / Component.VAE.value / "diffusion_pytorch_model.safetensors").unlink()
    shutil.rmtree(tree / Component.TEXT_ENCODER.value)

    report = verify(tree)

    assert not report.complete
    assert part(report, "DINOv2").finding is Finding.MISSING
    assert "dinov2_vitl14_reg4_pretrain.pth" in part(report, "DINOv2").detail
    assert "synchuman models pull official" in part(report, Component.VAE.value).detail
    prompts = part(report, "prompt embeddings")
    assert prompts.finding is Finding.MISSING
    assert "normal_embeds.pt" in prompts.detail
    assert sum(p.finding is Finding.COMPLETE for p in report.parts) == 6


def test_wrong_weights_are_named_tensor_by_tensor(tree: Path) -> None:
    path = tree / Component.MESH_DECODER.value / "model.safetensors"
    state = load_file(path)
    del state["out_layer.bias"]
    state["surplus"] = torch.zeros(1)
    save_file(state, path)

    found = part(verify(tree), Component.MESH_DECODER.value)

    assert found.finding is Finding.INVALID
    assert "out_layer.bias" in found.detail
    assert "surplus" in found.detail


def test_dinov2_may_lie_elsewhere(tree: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "hub"
    shutil.move(tree / "DINOv2", elsewhere)

    assert verify(tree, dinov2=elsewhere).complete
    assert not verify(tree).complete


def test_a_folder_that_is_no_tree_raises(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="neither OneStage/ nor SecondStage/"):
        verify(tmp_path)

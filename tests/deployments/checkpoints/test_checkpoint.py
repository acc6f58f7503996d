from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch

from deployments.checkpoints.checkpoint import open_checkpoint
from deployments.checkpoints.component import Component
from deployments.checkpoints.networks import build_network
from deployments.checkpoints.random import RandomCheckpoint
from deployments.errors import CheckpointError


@pytest.mark.parametrize("component", [c for c in Component if c is not Component.TEXT_ENCODER])
def test_a_small_official_tree_loads_through_the_same_code(
    complete_tree: Path, component: Component
) -> None:
    checkpoint = open_checkpoint(str(complete_tree))
    config = checkpoint.config(component)

    network = checkpoint.load(component, lambda: build_network(component, config), device="cpu")

    original = RandomCheckpoint("small").load(
        component, lambda: build_network(component, config), device="cpu"
    )
    expected = original.state_dict()
    assert network.state_dict().keys() == expected.keys()
    for name, tensor in network.state_dict().items():
        assert tensor.dtype == expected[name].dtype
        assert torch.equal(tensor, expected[name].half().to(tensor.dtype)), name


def test_extra_config_fields_change_nothing(complete_tree: Path, tmp_path: Path) -> None:
    """The published joint-model config carries averages of its training (model.md 1)."""
    part = Component.JOINT_MODEL
    shutil.copytree(complete_tree / part.value, tmp_path / part.value)
    path = tmp_path / part.value / "config.json"
    extra = {"decay": 0.9999, "use_ema_warmup": False, "_diffusers_version": "0.29.1"}
    path.write_text(json.dumps({**json.loads(path.read_text()), **extra}))
    checkpoint = open_checkpoint(str(tmp_path))

    network = checkpoint.load(
        part, lambda: build_network(part, checkpoint.config(part)), device="cpu"
    )

    assert len(network.state_dict()) > 100


def test_config_unwraps_args(complete_tree: Path) -> None:
    config = open_checkpoint(str(complete_tree)).config(Component.LATENT_FLOW)
    assert config["in_channels"] == 8
    assert "name" not in config


def test_a_pth_of_dinov2_needs_no_config(tmp_path: Path) -> None:
    (tmp_path / "OneStage").mkdir()
    (tmp_path / "DINOv2").mkdir()
    torch.save({}, tmp_path / "DINOv2" / "dinov2_vitl14_reg4_pretrain.pth")

    config = open_checkpoint(str(tmp_path)).config(Component.DINOV2)

    assert (config["hidden_size"], config["num_hidden_layers"]) == (1024, 24)


@pytest.mark.parametrize(
    ("name", "code", "message"),
    [
        ("no/such/folder", "checkpoint_unknown", "neither a directory nor one of embedded"),
        ("random:huge", "checkpoint_unknown", "no random preset 'huge'; there are official, small"),
    ],
)
def test_unknown_names_list_the_known_ones(name: str, code: str, message: str) -> None:
    with pytest.raises(CheckpointError, match=message) as caught:
        open_checkpoint(name)
    assert caught.value.code == code


def test_a_folder_that_is_no_tree_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="holds neither OneStage/ nor SecondStage/"):
        open_checkpoint(str(tmp_path))


def test_a_missing_component_names_itself(tmp_path: Path) -> None:
    (tmp_path / "OneStage").mkdir()
    with pytest.raises(CheckpointError, match=r"has no OneStage/vae/config\.json") as caught:
        open_checkpoint(str(tmp_path)).config(Component.VAE)
    assert caught.value.code == "checkpoint_missing"

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from deployments.checkpoints.component import Component
from deployments.checkpoints.loading import build_without_memory, load_strict
from deployments.checkpoints.weight_files import WeightFiles
from deployments.errors import CheckpointError

CPU = torch.device("cpu")


class Part(nn.Module):
    """Two layers, a stored table and a computed one, like the networks of the method."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(3, 4)
        self.norm = nn.LayerNorm(4)
        self.register_buffer("stored_table", torch.arange(4.0) / 3)
        self.register_buffer("computed_table", torch.arange(5.0) / 7, persistent=False)


def values(dtype: torch.dtype = torch.float32) -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    return {
        name: torch.randn(tensor.shape).to(dtype) for name, tensor in Part().state_dict().items()
    }


def load(
    folder: Path, dtype: torch.dtype | None = None, component: Component = Component.LATENT_FLOW
) -> Part:
    return load_strict(Part, WeightFiles.locate(folder), component, device=CPU, dtype=dtype)


def same(part: nn.Module, expected: dict[str, torch.Tensor]) -> bool:
    state = part.state_dict()
    return state.keys() == expected.keys() and all(
        torch.equal(state[name], tensor.to(state[name].dtype)) for name, tensor in expected.items()
    )


def test_building_allocates_no_parameters_and_computes_buffers() -> None:
    part = build_without_memory(Part)

    assert all(parameter.is_meta for parameter in part.parameters())
    assert torch.equal(part.get_buffer("computed_table"), torch.arange(5.0) / 7)


@pytest.mark.parametrize("stem", ["model", "diffusion_pytorch_model"])
def test_loads_one_safetensors_file(tmp_path: Path, stem: str) -> None:
    save_file(values(), tmp_path / f"{stem}.safetensors")

    part = load(tmp_path)

    assert same(part, values())
    assert not part.training
    assert not any(parameter.requires_grad for parameter in part.parameters())
    assert torch.equal(part.get_buffer("computed_table"), torch.arange(5.0) / 7)


def test_loads_shards(tmp_path: Path) -> None:
    state = values()
    shards = {"a.safetensors": ["first.weight", "norm.bias"]}
    shards["b.safetensors"] = [name for name in state if name not in shards["a.safetensors"]]
    for file, names in shards.items():
        save_file({name: state[name] for name in names}, tmp_path / file)
    weight_map = {name: file for file, names in shards.items() for name in names}
    index = tmp_path / "diffusion_pytorch_model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": weight_map}))

    assert same(load(tmp_path), state)

    (tmp_path / "b.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"shards that are not there: b\.safetensors"):
        load(tmp_path)


def test_loads_a_bin_of_tensors_only(tmp_path: Path) -> None:
    torch.save(values(torch.float16), tmp_path / "pytorch_model.bin")

    assert same(load(tmp_path), values(torch.float16))


def test_loads_a_bin_of_old_pytorch(tmp_path: Path) -> None:
    torch.save(values(), tmp_path / "model.bin", _use_new_zipfile_serialization=False)

    assert same(load(tmp_path), values())


class RunsCode:
    def __reduce__(self) -> tuple[object, ...]:
        return print, ("code from a checkpoint",)


def test_refuses_a_bin_that_would_run_code(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.save({"first.weight": RunsCode()}, tmp_path / "model.bin")

    with pytest.raises(CheckpointError, match=r"refused.*weights_only=True") as caught:
        load(tmp_path)

    assert caught.value.code == "checkpoint_unsafe"
    assert "code from a checkpoint" not in capsys.readouterr().out


def test_refuses_a_bin_that_is_no_state_dict(tmp_path: Path) -> None:
    torch.save({"epoch": 3, "state": values()}, tmp_path / "model.bin")

    with pytest.raises(CheckpointError, match="flat dictionary of tensors"):
        load(tmp_path)


def test_safetensors_win_over_pickles(tmp_path: Path) -> None:
    torch.save({"first.weight": RunsCode()}, tmp_path / "model.bin")
    save_file(values(), tmp_path / "model.safetensors")

    assert same(load(tmp_path), values())


@pytest.mark.parametrize(
    ("stored", "wanted", "result"),
    [
        (torch.float16, None, torch.float32),
        (torch.float16, torch.float16, torch.float16),
        (torch.float32, torch.float16, torch.float16),
        (torch.float16, torch.float32, torch.float32),
        (torch.float32, torch.bfloat16, torch.bfloat16),
    ],
)
def test_casts_from_the_stored_precision(
    tmp_path: Path, stored: torch.dtype, wanted: torch.dtype | None, result: torch.dtype
) -> None:
    save_file(values(stored), tmp_path / "model.safetensors")

    part = load(tmp_path, wanted)

    assert {tensor.dtype for tensor in part.state_dict().values()} == {result}
    assert part.get_buffer("computed_table").dtype == torch.float32
    assert same(part, values(stored))


def test_without_dtype_a_mixed_module_stays_mixed(tmp_path: Path) -> None:
    def mixed() -> Part:
        part = Part()
        part.first.half()
        return part

    save_file(values(), tmp_path / "model.safetensors")
    part = load_strict(
        mixed, WeightFiles.locate(tmp_path), Component.LATENT_FLOW, device=CPU, dtype=None
    )

    assert part.first.weight.dtype == torch.float16
    assert part.norm.weight.dtype == torch.float32


def test_one_error_names_every_difference(tmp_path: Path) -> None:
    state = values()
    del state["first.bias"], state["norm.weight"]
    state["first.weight"] = torch.zeros(4, 5)
    state["stored_table"] = torch.zeros(2)
    state["third.weight"] = state["fourth.weight"] = torch.zeros(1)
    save_file({name: tensor.clone() for name, tensor in state.items()}, tmp_path / "model.bin.tmp")
    (tmp_path / "model.bin.tmp").rename(tmp_path / "model.safetensors")

    with pytest.raises(CheckpointError) as caught:
        load(tmp_path)

    assert caught.value.detail["missing"] == ["first.bias", "norm.weight"]
    assert sorted(caught.value.detail["unexpected"]) == ["fourth.weight", "third.weight"]
    message = caught.value.message
    assert "2 missing: first.bias, norm.weight" in message
    assert "third.weight" in message
    assert "fourth.weight" in message
    assert "first.weight is [4, 5], not [4, 3]" in message
    assert "stored_table is [2], not [4]" in message
    assert str(tmp_path / "model.safetensors") in message


def test_a_folder_without_weights_says_what_was_looked_for(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"no weights in .*\.safetensors.*\.bin") as caught:
        load(tmp_path)
    assert caught.value.code == "checkpoint_missing"


def test_a_cut_off_safetensors_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    save_file(values(), path)
    path.write_bytes(path.read_bytes()[:-8])

    with pytest.raises(CheckpointError, match=r"model\.safetensors is not a whole safetensors"):
        load(tmp_path)


def test_a_buffer_that_is_allocated_but_not_computed_is_an_error(tmp_path: Path) -> None:
    class Forgetful(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("scratch", torch.empty(3), persistent=False)

    save_file({}, tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match="no file can fill: scratch"):
        load_strict(Forgetful, WeightFiles.locate(tmp_path), Component.VAE, device=CPU, dtype=None)

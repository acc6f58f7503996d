"""The weight files of one component: which there are, what they hold, and reading it safely.

Accepted are safetensors (one file, or shards with an index) and PyTorch files that load with
``weights_only=True``. Nothing else is ever unpickled.
"""

from __future__ import annotations

import pickle
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from deployments.checkpoints.method import read_json
from deployments.errors import CheckpointError

_STEMS = ("diffusion_pytorch_model", "model", "pytorch_model")
_SAFETENSORS = ".safetensors"
_PICKLES = (".bin", ".pt", ".pth")
DINOV2_OFFICIAL_FILE = "dinov2_vitl14_reg4_pretrain.pth"


@dataclass(frozen=True)
class TensorHeader:
    """Shape and storage type of one stored tensor, and the file that holds it."""

    shape: tuple[int, ...]
    dtype: str
    path: Path


class WeightFiles:
    """The stored tensors of one component, opened lazily.

    ``headers`` maps every stored name to its header; safetensors headers are read without touching
    the tensors, so looking at a checkpoint of many gigabytes takes milliseconds.
    """

    def __init__(self, paths: Iterable[Path]) -> None:
        self.paths = tuple(paths)
        self.headers: dict[str, TensorHeader] = {}
        for path in self.paths:
            self.headers.update(_read_headers(path))

    @classmethod
    def locate(cls, directory: Path) -> WeightFiles:
        """Find the weights in ``directory``: safetensors first, a whole file before shards."""
        found = find_weight_files(directory)
        if not found:
            raise CheckpointError(
                f"no weights in {directory}: looked for {{{', '.join(_STEMS)}}} with .safetensors, "
                ".safetensors.index.json, .bin or .pth; 'synchuman models verify' says how to get "
                "what is missing",
                code="checkpoint_missing",
                path=str(directory),
            )
        return cls(found)

    def read(
        self, names: Iterable[str], device: torch.device
    ) -> Iterator[tuple[str, torch.Tensor]]:
        """Yield the named tensors as stored, file by file, each on ``device`` by itself."""
        by_path: dict[Path, list[str]] = {}
        for name in names:
            by_path.setdefault(self.headers[name].path, []).append(name)
        for path, wanted in by_path.items():
            if path.suffix == _SAFETENSORS:
                with safe_open(path, framework="pt", device=str(device)) as handle:
                    for name in wanted:
                        yield name, handle.get_tensor(name)
            else:
                stored = _load_state_dict(path)
                for name in wanted:
                    yield name, stored[name].to(device)


def find_weight_files(directory: Path) -> tuple[Path, ...]:
    """The files that hold the weights of ``directory``; empty when there are none."""
    for suffix in (_SAFETENSORS, *_PICKLES):
        for stem in _STEMS:
            whole = directory / f"{stem}{suffix}"
            if whole.is_file():
                return (whole,)
            index = directory / f"{stem}{suffix}.index.json"
            if index.is_file():
                return _shards(index)
    official = directory / DINOV2_OFFICIAL_FILE
    return (official,) if official.is_file() else ()


def _shards(index: Path) -> tuple[Path, ...]:
    weight_map = read_json(index).get("weight_map", {})
    names = sorted(set(weight_map.values()))
    absent = [name for name in names if not (index.parent / name).is_file()]
    if absent or not names:
        raise CheckpointError(
            f"{index} names shards that are not there: {', '.join(absent) or 'none at all'}; "
            "pull the checkpoint again, a finished download is not repeated",
            code="checkpoint_missing",
            path=str(index),
        )
    return tuple(index.parent / name for name in names)


def _read_headers(path: Path) -> dict[str, TensorHeader]:
    if path.suffix != _SAFETENSORS:
        return {
            name: TensorHeader(tuple(tensor.shape), str(tensor.dtype).removeprefix("torch."), path)
            for name, tensor in _load_state_dict(path).items()
        }
    try:
        with safe_open(path, framework="pt") as handle:
            return {
                name: TensorHeader(
                    tuple(handle.get_slice(name).get_shape()),
                    handle.get_slice(name).get_dtype(),
                    path,
                )
                for name in handle.keys()  # noqa: SIM118 - not a mapping
            }
    except (SafetensorError, OSError) as error:
        raise CheckpointError(
            f"{path} is not a whole safetensors file ({error}); pull it again",
            path=str(path),
        ) from error


def load_pickle(path: Path) -> Any:
    """Load a PyTorch file without running any code from it; its tensors stay mapped to the file."""
    try:
        try:
            return torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        except RuntimeError:  # files from before PyTorch 1.6 can not be mapped
            return torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, OSError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise CheckpointError(
            f"{path} is refused: it does not load with weights_only=True ({reason}); "
            "convert it to safetensors where you trust it",
            code="checkpoint_unsafe",
            path=str(path),
        ) from error


def _load_state_dict(path: Path) -> dict[str, torch.Tensor]:
    stored: dict[str, torch.Tensor] = load_pickle(path)
    if not isinstance(stored, dict) or not all(
        isinstance(v, torch.Tensor) for v in stored.values()
    ):
        raise CheckpointError(
            f"{path} holds something other than a flat dictionary of tensors; store the module's "
            "state_dict()",
            path=str(path),
        )
    return stored

"""One folder of the parity kit: its description, its inputs, its parameters and what must come out.

Form of a folder: README of the kit. Everything that the folder states about generated values (first
values, mean, hash of the parameters) is checked when the value is made.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from recipe import Float32, generated_input, parameter, parameters_hash
from safetensors.torch import load_file
from torch import Tensor, nn

SUBSAMPLED = re.compile(r"_(?:every|stride)(\d+)(?:px)?")  # only every n-th element is stored
_LARGE_PARAMETERS = 300_000_000  # the recipe alone takes a minute and gigabytes above this


class Case:
    """Everything a builder needs to run one case."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.document: dict[str, Any] = json.loads((folder / "case.json").read_text())

    @property
    def name(self) -> str:
        """The name that the case gives itself."""
        return str(self.document["case"])

    @property
    def ctor(self) -> str | None:
        """The class of the official code that the case exercises, if it is a single one."""
        return self.document.get("ctor")

    @property
    def config(self) -> dict[str, Any]:
        """Constructor arguments of that class, or the sizes of a case without one."""
        return dict(self.document.get("config", {}))

    @property
    def note(self) -> str:
        """What the case says about its tensors, in prose."""
        return " ".join(str(self.document.get(key, "")) for key in ("call", "note", "taps"))

    @property
    def entries(self) -> list[str]:
        """Names of the modules whose parameters the recipe fills."""
        return list(self.document.get("weights", {}))

    @property
    def parameters(self) -> int:
        """How many values the recipe has to make."""
        shapes = [
            shape for entry in self.entries for shape in self._weights(entry)["keys"].values()
        ]
        return sum(int(np.prod(shape)) for shape in shapes)

    @property
    def large(self) -> bool:
        """True when the case needs gigabytes and minutes."""
        return self.parameters > _LARGE_PARAMETERS

    @cached_property
    def inputs(self) -> dict[str, Tensor]:
        """Stored and generated inputs by name."""
        stored = self._tensors("inputs")
        generated = {
            name: torch.from_numpy(_checked_input(name, facts))
            for name, facts in self.document.get("recipe_inputs", {}).items()
        }
        return {**stored, **generated}

    @cached_property
    def outputs(self) -> dict[str, Tensor]:
        """Expected tensors by name, as stored (some are sub-sampled)."""
        return self._tensors("outputs")

    @property
    def output_names(self) -> set[str]:
        """Names of the expected tensors without the suffix that says how they were thinned."""
        return {SUBSAMPLED.sub("", name) for name in self.document.get("outputs", {})}

    def weights(self, entry: str = "model") -> dict[str, Tensor]:
        """Recipe-filled parameters of ``entry``, checked against the stated hash."""
        facts = self._weights(entry)
        values: dict[str, Float32] = {}

        def made() -> Iterator[tuple[str, Float32]]:
            for key in sorted(facts["keys"]):
                values[key] = parameter(key, tuple(facts["keys"][key]), facts["seed"])
                yield key, values[key]

        assert parameters_hash(made()) == facts["sha256_of_parameters"], (
            f"{self.name}: the recipe does not reproduce the parameters of {entry!r}"
        )
        for key in values:
            if f"{entry}.{key}" in self.document.get("zeroed_after_filling", []):
                values[key][...] = 0
        return {key: torch.from_numpy(value) for key, value in values.items()}

    def fill(self, module: nn.Module, entry: str = "model") -> nn.Module:
        """Load the parameters of ``entry`` strictly; parameters may still be on the meta device.

        Entries that the case lists as constant buffers are computed by the module, not filled.
        """
        constant = self._weights(entry).get("constant_buffers", {})
        missing, unexpected = module.load_state_dict(self.weights(entry), strict=False, assign=True)
        assert set(missing) == set(constant), f"{self.name}: missing keys {sorted(missing)}"
        assert not unexpected, f"{self.name}: unexpected keys {sorted(unexpected)}"
        return module.eval().requires_grad_(False)

    def _weights(self, entry: str) -> Mapping[str, Any]:
        facts: Mapping[str, Any] = self.document["weights"][entry]
        return facts

    def _tensors(self, kind: str) -> dict[str, Tensor]:
        file = self.folder / f"{kind}.safetensors"
        tensors: dict[str, Tensor] = load_file(file) if file.exists() else {}
        stated = self.document.get(kind, {})
        for name, (shape, _) in stated.items():
            assert list(tensors[name].shape) == shape, f"{self.name}: {name} is not {shape}"
        return tensors


def _checked_input(name: str, facts: Mapping[str, Any]) -> Float32:
    value = generated_input(name, tuple(facts["shape"]), facts["seed"], facts["scale"])
    np.testing.assert_allclose(value.ravel()[:4], facts["first4"], rtol=1e-6)
    np.testing.assert_allclose(value.std(dtype=np.float64), facts["std"], rtol=1e-4)
    return value

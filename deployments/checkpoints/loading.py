"""Strict loading: every tensor of the module comes from the file, none is left over, no copies.

The module is built without memory, then every parameter is read straight to the device and put in
place. All differences between module and file end in one error that names every one of them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from deployments.checkpoints.component import Component
from deployments.checkpoints.key_tables import Source, match_names
from deployments.checkpoints.weight_files import WeightFiles
from deployments.errors import CheckpointError

ModuleT = TypeVar("ModuleT", bound=nn.Module)


class _WithoutMemory(TorchFunctionMode):
    """Put what is allocated uninitialised on the meta device.

    Layers allocate their parameters with ``torch.empty``; computed buffers (position tables, index
    tables) come from other functions, so they are real and keep their values.
    """

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = dict(kwargs or {})
        if func is torch.empty:
            kwargs["device"] = "meta"
        return func(*args, **kwargs)


def build_without_memory(build: Callable[[], ModuleT]) -> ModuleT:
    """Call ``build`` with parameters on the meta device and computed buffers real."""
    with _WithoutMemory():
        return build()


def target_dtype(tensor: torch.Tensor, dtype: torch.dtype | None) -> torch.dtype:
    """What a module's tensor is loaded as: ``dtype`` if given and it is a float, else its own."""
    return dtype if dtype is not None and tensor.is_floating_point() else tensor.dtype


def fill_module(
    module: ModuleT, state: dict[str, torch.Tensor], *, device: torch.device
) -> ModuleT:
    """Put ``state`` in place and make the module ready for inference on ``device``."""
    module.load_state_dict(state, strict=False, assign=True)
    unfilled = [
        name
        for group in (module.named_parameters(), module.named_buffers())
        for name, tensor in group
        if tensor.is_meta
    ]
    if unfilled:
        raise CheckpointError(
            f"{type(module).__name__} has tensors that no file can fill: {', '.join(unfilled)}; "
            "compute such buffers with something other than torch.empty"
        )
    return module.to(device).requires_grad_(False).eval()


def load_strict(
    build: Callable[[], ModuleT],
    files: WeightFiles,
    component: Component,
    *,
    device: torch.device,
    dtype: torch.dtype | None,
) -> ModuleT:
    """Build a module and fill it from ``files``, casting what is stored in another precision."""
    module = build_without_memory(build)
    expected = module.state_dict()
    sources = check_against(component, expected, files)
    feeds: dict[str, list[tuple[str, Source]]] = {}
    for name, source in sources.items():
        feeds.setdefault(source.name, []).append((name, source))
    state: dict[str, torch.Tensor] = {}
    for stored_name, stored in files.read(feeds, device):
        for name, source in feeds[stored_name]:
            part = stored if source.third is None else stored.chunk(3)[source.third].clone()
            state[name] = part.to(target_dtype(expected[name], dtype))
    return fill_module(module, state, device=device)


def check_against(
    component: Component, expected: dict[str, torch.Tensor], files: WeightFiles
) -> dict[str, Source]:
    """Compare names and shapes; return the source of every tensor or raise one error for all."""
    matching = match_names(component, expected, files.headers)
    misshapen = []
    for name, source in matching.sources.items():
        stored = files.headers[source.name].shape
        if source.third is not None:
            stored = (stored[0] // 3, *stored[1:])
        if stored != tuple(expected[name].shape):
            misshapen.append(f"{name} is {list(stored)}, not {list(expected[name].shape)}")
    if matching.missing or matching.unexpected or misshapen:
        raise mismatch_error(component, matching.missing, matching.unexpected, misshapen, files)
    return matching.sources


def mismatch_error(
    component: Component,
    missing: Sequence[str],
    unexpected: Sequence[str],
    misshapen: Sequence[str],
    files: WeightFiles,
) -> CheckpointError:
    """One error that names every difference between a component and its files."""
    parts = [
        f"{len(names)} {word}: {', '.join(names)}"
        for word, names in (
            ("missing", missing),
            ("unexpected", unexpected),
            ("of another shape", misshapen),
        )
        if names
    ]
    return CheckpointError(
        f"{component.value} does not fit its weights in {', '.join(map(str, files.paths))}: "
        f"{'; '.join(parts)}. Check that config.json and weights belong together, or pull the "
        "checkpoint again",
        component=component.value,
        missing=list(missing),
        unexpected=list(unexpected),
        misshapen=list(misshapen),
    )

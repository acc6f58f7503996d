"""How an output is held against the stored one: sub-sampling by name, tolerance by case."""

from __future__ import annotations

import re
from typing import Any

import torch
from case import SUBSAMPLED, Case
from torch import Tensor

_STRIDES_IN_PROSE = re.compile(r"::(\d+)|\b0,\s?(\d+),|every (\d+)")


def assert_matches(case: Case, name: str, produced: dict[str, Tensor]) -> None:
    """Check the expected tensor ``name`` against what a builder produced.

    ``name`` may carry a suffix ``_everyK`` or ``_strideK``; the builder's tensor is found with or
    without it and sub-sampled along the axes where the stored one is shorter.
    """
    expected = case.outputs[name]
    plain = SUBSAMPLED.sub("", name)
    found = produced.get(name, produced.get(plain))
    assert found is not None, f"{case.name}: the builder gives {sorted(produced)}, not {plain!r}"
    stated = SUBSAMPLED.search(name)
    actual = _subsample(case, name, found, expected, int(stated.group(1)) if stated else None)
    _close(case, name, actual, expected)


def _subsample(case: Case, name: str, full: Tensor, stored: Tensor, stride: int | None) -> Tensor:
    assert full.ndim == stored.ndim, (
        f"{case.name}: {name} is {tuple(full.shape)}, stored {tuple(stored.shape)}"
    )
    for axis, (size, kept) in enumerate(zip(full.shape, stored.shape, strict=True)):
        if size != kept:
            stated = stride is not None and -(-size // stride) == kept
            step = stride if stated else _stride_of(case, size, kept)
            full = full.index_select(axis, torch.arange(0, size, step))
    assert full.shape == stored.shape, (
        f"{case.name}: {name} is {tuple(full.shape)}, stored {tuple(stored.shape)}"
    )
    return full


def _stride_of(case: Case, size: int, kept: int) -> int:
    """The stride that leaves ``kept`` of ``size``; the note decides when several do."""
    fitting = [k for k in range(1, size + 1) if -(-size // k) == kept]
    assert fitting, f"{case.name}: no stride takes {size} to {kept}"
    named = {int(n) for found in _STRIDES_IN_PROSE.findall(case.note) for n in found if n}
    return next((k for k in fitting if k in named), fitting[0])


def _close(case: Case, name: str, actual: Tensor, expected: Tensor) -> None:
    atol, rtol = _tolerance(case, name, expected)
    if atol == rtol == 0.0:
        assert torch.equal(actual.to(expected.dtype), expected), f"{case.name}: {name} differs"
        return
    a, b = actual.double(), expected.double()
    difference = (a - b).abs()
    worst = (difference - rtol * b.abs()).max().item()
    assert worst <= atol, (  # NaN fails, too
        f"{case.name}: {name} is off by {difference.max().item():.3g} "
        f"(allowed {atol:g} + {rtol:g} |x|)"
    )


def _tolerance(case: Case, name: str, expected: Tensor) -> tuple[float, float]:
    """(atol, rtol) for one tensor: by its name, by its kind, or the case's own."""
    stated: dict[str, Any] = case.document["tolerance"]
    by_name = [key for key in stated if key in name and not isinstance(stated[key], bool)]
    kind = "float" if expected.is_floating_point() else str(expected.dtype).removeprefix("torch.")
    rule: Any = stated
    if by_name:
        rule = stated[max(by_name, key=len)]
    elif kind in stated:
        rule = stated[kind]
    if isinstance(rule, (int, float)) and not isinstance(rule, bool):
        return float(rule), 0.0
    if isinstance(rule, str) or rule.get("exact") or not (expected.is_floating_point()):
        return 0.0, 0.0
    if "atol" not in rule:  # nothing is stated for this tensor: it gets the tightest that is
        floats = [r for r in stated.values() if isinstance(r, dict) and r.get("atol")]
        assert floats, f"{case.name}: no tolerance is stated for {name}"
        rule = min(floats, key=lambda r: (r["atol"], r.get("rtol", 0.0)))
    return float(rule["atol"]), float(rule.get("rtol", 0.0))

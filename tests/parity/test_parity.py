"""Every case of the kit against our modules, at the case's own tolerance."""

from __future__ import annotations

import torch
from case import Case
from compare import assert_matches
from registry import builder_for


def test_case(case: Case, part: str | None) -> None:
    wanted = [name for name in case.outputs if part is None or name.startswith(part)]
    assert wanted, f"{case.name}: nothing is expected of {part!r}"
    with torch.inference_mode():
        produced = builder_for(case, part)(case)
    for name in wanted:
        assert_matches(case, name, produced)

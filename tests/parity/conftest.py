"""Finds the cases of a kit: ``pytest tests/parity --kit DIR``."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest
from case import Case
from kit import HERE, kit_folder
from registry import is_small_amplitude

for file in sorted(HERE.glob("*_cases.py")):
    importlib.import_module(file.stem)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--kit",
        type=Path,
        default=None,
        help="folder of parity cases (default: ../shared/parity if there, else tests/parity/cases)",
    )


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if not {"case", "part"} <= set(metafunc.fixturenames):
        return
    kit = kit_folder(metafunc.config)
    parameters = []
    for file in sorted([*kit.glob("case.json"), *kit.glob("*/case.json")]):
        case = Case(file.parent)
        marks = [pytest.mark.large] if case.large else []
        parts = case.entries if is_small_amplitude(case) else [None]
        for part in parts:
            name = file.parent.name if part is None else f"{file.parent.name}-{part}"
            parameters.append(pytest.param(case, part, id=name, marks=marks))
    if not parameters:
        raise pytest.UsageError(f"{kit} holds no folder with a case.json")
    metafunc.parametrize(("case", "part"), parameters)

"""The import rules of architecture.md, held by reading every import of every module."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SOURCES = sorted([*ROOT.glob("serve_app/**/*.py"), *ROOT.glob("deployments/**/*.py")])


def imports(path: Path) -> Iterator[str]:
    """Full names of what a module imports, wherever in it the import stands."""
    package = path.relative_to(ROOT).parent.parts
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(package[: len(package) - node.level + 1]) if node.level else ""
            yield ".".join(filter(None, (base, node.module)))


def importers(*packages: str, among: list[Path]) -> set[str]:
    """Modules of ``among`` that import one of the packages or something inside."""
    return {
        path.relative_to(ROOT).as_posix()
        for path in among
        for name in imports(path)
        if any(name == package or name.startswith(f"{package}.") for package in packages)
    }


def below(folder: str) -> list[Path]:
    return [path for path in SOURCES if path.relative_to(ROOT).as_posix().startswith(f"{folder}/")]


def test_there_is_something_to_look_at():
    assert len(below("serve_app")) > 10
    assert len(below("deployments")) > 20
    assert importers("ray", among=SOURCES), "the scan must be able to find an import"


def test_only_deployment_files_and_serve_app_import_ray():
    allowed = {path for path in below("deployments") if path.name == "deployment.py"}
    assert importers("ray", among=[p for p in below("deployments") if p not in allowed]) == set()


def test_serve_app_never_imports_the_networks_libraries():
    heavy = ("torch", "diffusers", "transformers", "trimesh", "kaolin", "xformers")
    assert importers(*heavy, among=below("serve_app")) == set()


def test_stages_do_not_know_the_service():
    assert importers("serve_app", among=below("deployments")) == set()


def test_stages_know_no_http_and_no_database():
    outside = ("fastapi", "starlette", "sqlalchemy", "pydantic", "fsspec")
    assert importers(*outside, among=below("deployments")) == set()


def test_layers_import_nothing_above_them():
    stages = [f"deployments.{name}" for name in ("stage1", "stage2", "preprocess", "preview")]
    assert importers(*stages, among=below("deployments/layers")) == set()


@pytest.mark.parametrize(
    ("stage", "others"),
    [
        ("stage1", ("stage2", "preview")),
        ("preprocess", ("stage1", "stage2", "preview")),
    ],
)
def test_stages_do_not_look_ahead(stage: str, others: tuple[str, ...]):
    ahead = [f"deployments.{name}" for name in others]
    assert importers(*ahead, among=below(f"deployments/{stage}")) == set()


def test_checkpoints_know_networks_only_where_they_verify_them():
    stages = [f"deployments.{name}" for name in ("stage1", "stage2", "preprocess", "preview")]
    found = importers(*stages, among=below("deployments/checkpoints"))
    assert found <= {"deployments/checkpoints/networks.py"}


def test_the_http_layer_never_touches_the_job_table():
    assert importers("sqlalchemy", among=below("serve_app/ingress")) == set()


def test_only_settings_read_the_environment():
    readers = {
        path.relative_to(ROOT).as_posix()
        for path in SOURCES
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Attribute) and node.attr in ("environ", "getenv")
    }
    assert readers <= {"serve_app/settings.py"}


def test_importing_the_graph_loads_no_torch():
    code = "import sys, serve_app.app; sys.exit('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr

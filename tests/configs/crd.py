"""RayService's CustomResourceDefinition as a schema that a manifest can be held against.

``rayservice_crd.json.gz`` is the ``v1`` schema of KubeRay 1.7.0 (Apache-2.0, commit 59d663a,
ray-operator/config/crd/bases/ray.io_rayservices.yaml) without its descriptions.
"""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

from jsonschema import Draft7Validator

FILE = Path(__file__).parent / "rayservice_crd.json.gz"


def complaints(manifest: Any) -> list[str]:
    """What the API server would refuse, or drop without a word: ``path: reason``."""
    schema = _strict(json.loads(gzip.decompress(FILE.read_bytes())))
    return sorted(
        f"{'.'.join(str(part) for part in error.absolute_path)}: {error.message}"
        for error in Draft7Validator(schema).iter_errors(manifest)
    )


def _strict(schema: Any) -> Any:
    """Kubernetes' dialect in JSON Schema's words; what it would prune is an error here."""
    if isinstance(schema, list):
        return [_strict(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    strict = {
        key: {name: _strict(part) for name, part in value.items()}
        if key == "properties"
        else _strict(value)
        for key, value in schema.items()
        if not key.startswith("x-kubernetes-")
    }
    if schema.get("x-kubernetes-int-or-string"):
        strict["type"] = ["integer", "string"]
    if (
        "properties" in schema
        and "additionalProperties" not in schema
        and not schema.get("x-kubernetes-preserve-unknown-fields")
    ):
        strict["additionalProperties"] = False
    return strict

"""Reading the config.json that a library wrote for a network which is our own here."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from deployments.errors import CheckpointError


def read_sizes(
    values: Mapping[str, Any],
    names: Iterable[str],
    *,
    network: str,
    fixed: Mapping[str, Any],
) -> dict[str, Any]:
    """Those of ``values`` that are called one of ``names``, lists as tuples.

    Further fields describe training or the library. ``fixed`` are fields that have one value in
    every checkpoint of this method; a file may leave them out.

    :raises CheckpointError: where a fixed field differs: the file describes another network.
    """
    for name, only in fixed.items():
        found = values.get(name, only)
        if (list(found) if isinstance(found, tuple) else found) != only:
            raise CheckpointError(
                f"config.json of {network}: {name} is {found!r}, this network has {only!r}",
                code="checkpoint_config",
            )
    known = {name: values[name] for name in names if name in values}
    return {name: tuple(v) if isinstance(v, list) else v for name, v in known.items()}

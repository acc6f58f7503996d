"""Parameter names: how those of a file answer to those of a module.

Most components are stored under the very names that the module has. Three are not:

* DINOv2 exists under three namings (official ``.pth``, transformers 4.x files, transformers 5.x
  modules), and the official one keeps queries, keys and values in one matrix;
* the CLIP encoders gained or lost the prefix ``text_model.`` / ``vision_model.`` between versions.

``canonical_name`` takes any of them to one form: the official name and, for a third of a fused
matrix, which third. Facts: ``dinov2_key_map.json`` of the parity kit.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from deployments.checkpoints.component import Component

# Official name -> the names that transformers files and modules have used for the same tensor.
_DINOV2_STEM = {
    "cls_token": ("embeddings.cls_token",),
    "mask_token": ("embeddings.mask_token",),
    "register_tokens": ("embeddings.register_tokens",),
    "pos_embed": ("embeddings.position_embeddings",),
    "patch_embed.proj": ("embeddings.patch_embeddings.projection",),
    "norm": ("layernorm",),
}
_DINOV2_BLOCK = {
    "norm1": ("norm1",),
    "norm2": ("norm2",),
    "attn.proj": ("attention.output.dense", "attention.o_proj"),
    "mlp.fc1": ("mlp.fc1",),
    "mlp.fc2": ("mlp.fc2",),
    "ls1.gamma": ("layer_scale1.lambda1",),
    "ls2.gamma": ("layer_scale2.lambda1",),
}
_DINOV2_QKV = (
    ("attention.attention.query", "attention.q_proj"),
    ("attention.attention.key", "attention.k_proj"),
    ("attention.attention.value", "attention.v_proj"),
)
_DINOV2_LAYER = re.compile(r"(?:dinov2_with_registers\.)?(?:encoder\.)?layers?\.(\d+)\.(.+)")


@dataclass(frozen=True)
class CanonicalName:
    """A tensor under its official name; ``third`` is 0, 1, 2 for the q, k, v rows of one."""

    name: str
    third: int | None = None

    def __str__(self) -> str:
        return self.name if self.third is None else f"{self.name} [{'qkv'[self.third]} rows]"


@dataclass(frozen=True)
class Source:
    """Where a module's tensor comes from: a tensor of the file, or one third of its rows."""

    name: str
    third: int | None = None


@dataclass(frozen=True)
class Matching:
    """Which file tensor feeds which module tensor, and what is left over on either side."""

    sources: dict[str, Source]
    missing: tuple[str, ...]
    unexpected: tuple[str, ...]


def match_names(
    component: Component, module_names: Iterable[str], file_names: Iterable[str]
) -> Matching:
    """Pair the names of a module with those of a file."""
    canonical = _CANONICAL.get(component, CanonicalName)
    available = {canonical(name): name for name in file_names if not _ignorable(name)}
    sources: dict[str, Source] = {}
    missing: list[str] = []
    used: set[CanonicalName] = set()
    for name in module_names:
        wanted = canonical(name)
        whole = CanonicalName(wanted.name)
        if wanted in available:
            sources[name] = Source(available[wanted])
            used.add(wanted)
        elif whole in available:
            sources[name] = Source(available[whole], wanted.third)
            used.add(whole)
        else:
            missing.append(str(wanted))
    unexpected = [name for key, name in available.items() if key not in used]
    return Matching(sources, tuple(missing), tuple(unexpected))


def _ignorable(name: str) -> bool:
    """CLIP files written before transformers 4.31 store this computed index table."""
    return name.endswith("embeddings.position_ids")


def _clip_name(name: str) -> CanonicalName:
    return CanonicalName(re.sub(r"^((text_model|vision_model)\.)+", "", name))


def _dinov2_name(name: str) -> CanonicalName:
    layer = _DINOV2_LAYER.fullmatch(name)
    if layer:
        prefix, rest = f"blocks.{layer[1]}.", layer[2]
        for third, stems in enumerate(_DINOV2_QKV):
            for stem in stems:
                if rest.startswith(stem + "."):
                    return CanonicalName(f"{prefix}attn.qkv{rest[len(stem) :]}", third)
        return CanonicalName(prefix + _rename(rest, _DINOV2_BLOCK))
    return CanonicalName(_rename(name.removeprefix("dinov2_with_registers."), _DINOV2_STEM))


def _rename(name: str, table: Mapping[str, tuple[str, ...]]) -> str:
    for official, aliases in table.items():
        for alias in aliases:
            if name == alias or name.startswith(alias + "."):
                return official + name[len(alias) :]
    return name


_CANONICAL: dict[Component, Callable[[str], CanonicalName]] = {
    Component.DINOV2: _dinov2_name,
    Component.IMAGE_ENCODER: _clip_name,
    Component.TEXT_ENCODER: _clip_name,
}

"""Who runs which case.

Files named ``*_cases.py`` in this folder register their builders here; conftest.py imports all.
A builder takes the ``Case`` and returns its outputs by name, at full size: the runner sub-samples
them as the stored tensors were. It is found by what the case is about, never by its name or sizes:

    @case(ctor="SLatFlowModel")                     the official class that the case names
    @case(entries={"conv3", "conv1"})               a case without a class: modules it must have
    @case(fields={"stub", "schedule_t"})            ... or fields of case.json it must have
    @case(outputs={"trellis_noise"})                ... or outputs it must have

    @small_amplitude("res_block")                   one module of a ``small_amplitude_norms`` case
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from case import Case
from torch import Tensor

Outputs = dict[str, Tensor]
Builder = Callable[[Case], Outputs]


@dataclass(frozen=True)
class _Rule:
    builder: Builder
    ctor: str | None
    entries: frozenset[str]
    fields: frozenset[str]
    outputs: frozenset[str]

    def matches(self, case: Case) -> bool:
        return (
            case.ctor == self.ctor
            and self.entries <= set(case.entries)
            and self.fields <= set(case.document)
            and self.outputs <= case.output_names
        )


_rules: list[_Rule] = []
_small_amplitude: dict[str, Builder] = {}


def case(
    *,
    ctor: str | None = None,
    entries: Iterable[str] = (),
    fields: Iterable[str] = (),
    outputs: Iterable[str] = (),
) -> Callable[[Builder], Builder]:
    """Register the decorated builder for cases with all of these marks."""

    def register(builder: Builder) -> Builder:
        marks = (frozenset(entries), frozenset(fields), frozenset(outputs))
        assert ctor or any(marks), "a builder needs something to be found by"
        _rules.append(_Rule(builder, ctor, *marks))
        return builder

    return register


def small_amplitude(entry: str) -> Callable[[Builder], Builder]:
    """Register the decorated builder for one module of the small-amplitude case.

    It returns the outputs whose names begin with the module's name.
    """

    def register(builder: Builder) -> Builder:
        _small_amplitude[entry] = builder
        return builder

    return register


def is_small_amplitude(case: Case) -> bool:
    """True for the case that runs many modules, each with inputs near the norms' epsilons."""
    return "zeroed_after_filling" in case.document and case.ctor is None


def builder_for(case: Case, part: str | None) -> Builder:
    """The one builder of a case, or of the module ``part`` of a small-amplitude case."""
    if part is not None:
        assert part in _small_amplitude, f"{case.name}: no builder knows the module {part!r}"
        return _small_amplitude[part]
    found = [rule.builder for rule in _rules if rule.matches(case)]
    assert found, (
        f"{case.name}: no builder knows this case (ctor {case.ctor!r}, modules {case.entries})"
    )
    assert len(found) == 1, f"{case.name}: {len(found)} builders claim this case"
    return found[0]

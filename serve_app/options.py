"""What a request may ask for: names, ranges, and the way to one ``GenerationOptions``.

The HTTP form and ``synchuman generate`` share this model, so an option has the same name, range and
message in both. A request changes the service's mode downwards only: it may ask for less than the
service offers, never for a Stage 2 that the service does not have.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Annotated, Any

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    GetCoreSchemaHandler,
    GetJsonSchemaHandler,
)
from pydantic_core import core_schema

from deployments.contracts import GenerationOptions, Mode, OutputFormat, TextureFormat
from deployments.errors import InputError
from serve_app.settings import STAGE1_STEPS, STAGE2_STEPS, LiveArgs

DEFAULTS = GenerationOptions()
SEEDS = (0, 2**32 - 1)
GUIDANCE = (0.0, 20.0)
TEXTURE_SIZES = (256, 16384)
SIMPLIFY = (0.0, 0.99)
TARGET_FACES = (100, 10_000_000)


@dataclass(frozen=True)
class Range:
    """Annotation of a number from ``low`` to ``high``; the message always names both ends."""

    low: float
    high: float

    def __get_pydantic_core_schema__(
        self, source: Any, handler: GetCoreSchemaHandler
    ) -> core_schema.CoreSchema:
        return core_schema.no_info_after_validator_function(self.check, handler(source))

    def __get_pydantic_json_schema__(
        self, schema: core_schema.CoreSchema, handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        whole = isinstance(self.low, int)
        kind = int if whole else float
        return {**handler(schema), "minimum": kind(self.low), "maximum": kind(self.high)}

    def check(self, value: float) -> float:
        if not self.low <= value <= self.high:
            raise ValueError(
                f"must be {self.low:.10g} to {self.high:.10g}. Send a value in that range"
            )
        return value


def _given(value: Any) -> Any:
    """A form field that was left empty is a field that was not sent."""
    return None if value == "" else value


def as_list(value: Any) -> Any:
    """``splats,obj`` and repeated fields mean the same."""
    texts = [value] if isinstance(value, str) else value
    if isinstance(texts, list | tuple) and all(isinstance(text, str) for text in texts):
        return [part.strip() for text in texts for part in text.split(",") if part.strip()]
    return value


Blank = BeforeValidator(_given)


class FinishingOptions(BaseModel):
    """What is done after sampling, and so can be done again with an export."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    texture_size: Annotated[Annotated[int, Range(*TEXTURE_SIZES)] | None, Blank] = Field(
        None, description="pixels of the GLB's texture a side", examples=[2048]
    )
    texture_format: Annotated[TextureFormat | None, Blank] = Field(
        None, description="png or webp inside the GLB"
    )
    simplify: Annotated[Annotated[float, Range(*SIMPLIFY)] | None, Blank] = Field(
        None, description="share of the faces that decimation removes", examples=[0.7]
    )
    target_faces: Annotated[Annotated[int, Range(*TARGET_FACES)] | None, Blank] = Field(
        None, description="faces of the finished mesh; wins over simplify"
    )
    formats: Annotated[list[OutputFormat], BeforeValidator(as_list)] = Field(
        default_factory=list, description="more files of Stage 2: splats, obj"
    )

    def applied_to(self, made: GenerationOptions, service: LiveArgs) -> GenerationOptions:
        """The options of a finished job with these in their place.

        ``simplify`` alone also sets aside the job's ``target_faces``, which would win over it.

        :raises InputError: ``options_invalid`` for a texture beyond the service's limit.
        """
        check_texture(self.texture_size, service)
        asked = {name: getattr(self, name) for name in FinishingOptions.model_fields}
        given = {name: value for name, value in asked.items() if value is not None}
        if self.simplify is not None:
            given["target_faces"] = self.target_faces
        given["formats"] = tuple(dict.fromkeys(self.formats))
        return dataclasses.replace(made, **given)


class RequestOptions(FinishingOptions):
    """Options of one request. Everything may be left out; the service's own values step in."""

    mode: Annotated[Mode | None, Blank] = Field(
        None, description="official, stage1-only or graceful-fallback; the service's own by default"
    )
    stage1_only: Annotated[bool | None, Blank] = Field(
        None, description="the same as mode=stage1-only"
    )
    graceful_fallback: Annotated[bool | None, Blank] = Field(
        None, description="the same as mode=graceful-fallback"
    )
    stage1_steps: Annotated[Annotated[int, Range(*STAGE1_STEPS)] | None, Blank] = Field(
        None, description="sampling steps of Stage 1, 30 to 100", examples=[50]
    )
    stage2_steps: Annotated[Annotated[int, Range(*STAGE2_STEPS)] | None, Blank] = Field(
        None, description="sampling steps of Stage 2, 15 to 40", examples=[25]
    )
    seed: Annotated[Annotated[int, Range(*SEEDS)] | None, Blank] = Field(
        None, description="the same seed and options give the same result; 43 by default"
    )
    guidance: Annotated[Annotated[float, Range(*GUIDANCE)] | None, Blank] = Field(
        None, description="guidance scale of Stage 1; the checkpoint's own by default"
    )
    stage2_guidance: Annotated[Annotated[float, Range(*GUIDANCE)] | None, Blank] = Field(
        None, description="guidance scale of Stage 2; the checkpoint's own by default"
    )

    def resolve(self, service: LiveArgs) -> GenerationOptions:
        """These options with the service's values where nothing was asked for.

        :raises InputError: ``options_invalid`` for contradicting modes or a texture beyond the
            service's limit, ``mode_unavailable`` for more than the service offers.
        """
        check_texture(self.texture_size, service)
        asked: dict[str, Any] = {
            "stage1_steps": self.stage1_steps or service.stage1_steps,
            "stage2_steps": self.stage2_steps or service.stage2_steps,
            "seed": self.seed,
            "guidance": self.guidance,
            "stage2_guidance": self.stage2_guidance,
            "texture_size": self.texture_size
            or min(DEFAULTS.texture_size, service.max_texture_size),
            "texture_format": self.texture_format,
            "simplify": self.simplify,
            "target_faces": self.target_faces,
            "formats": tuple(dict.fromkeys(self.formats)),
        }
        given = {name: value for name, value in asked.items() if value is not None}
        return GenerationOptions(mode=resolve_mode(self._wanted_mode(), service.mode), **given)

    def _wanted_mode(self) -> Mode | None:
        wanted = {self.mode} if self.mode is not None else set()
        if self.stage1_only:
            wanted.add(Mode.STAGE1_ONLY)
        if self.graceful_fallback:
            wanted.add(Mode.GRACEFUL_FALLBACK)
        if len(wanted) > 1:
            names = " and ".join(sorted(mode.value for mode in wanted))
            raise InputError(
                f"the request asks for {names} at once; the modes exclude each other. "
                "Send one of mode, stage1_only and graceful_fallback",
                code="options_invalid",
            )
        return next(iter(wanted), None)


def check_texture(size: int | None, service: LiveArgs) -> None:
    """Refuse a texture beyond the service's limit."""
    if size is not None and size > service.max_texture_size:
        raise InputError(
            f"texture_size is {size}: must be {TEXTURE_SIZES[0]} to "
            f"{service.max_texture_size} on this service. Send a value in that range",
            code="options_invalid",
            value=size,
        )


def resolve_mode(wanted: Mode | None, service: Mode) -> Mode:
    """The mode of a request on a service: never more than the service offers.

    ``graceful-fallback`` on a Stage 1 service is what it says: Stage 1. ``official`` there is
    refused, since its promise (a textured mesh or an error) could only be broken.
    """
    if wanted is None:
        return service
    if service is Mode.STAGE1_ONLY and wanted is Mode.OFFICIAL:
        raise InputError(
            "mode is official, but this service runs in mode stage1-only and has no Stage 2. "
            "Leave mode out, or send graceful_fallback=true",
            code="mode_unavailable",
            value=wanted.value,
            rule=f"the service's mode is {service.value}",
        )
    return Mode.STAGE1_ONLY if service is Mode.STAGE1_ONLY else wanted


def options_as_json(options: GenerationOptions) -> dict[str, Any]:
    """Options as a job stores them."""
    return {name: _plain(value) for name, value in dataclasses.asdict(options).items()}


def options_from_json(stored: Mapping[str, Any]) -> GenerationOptions:
    """The options of a stored job; the opposite of :func:`options_as_json`."""
    kinds: dict[str, Any] = {"mode": Mode, "texture_format": TextureFormat}
    values = {name: kinds.get(name, lambda value: value)(value) for name, value in stored.items()}
    values["formats"] = tuple(OutputFormat(value) for value in stored.get("formats", ()))
    return GenerationOptions(**values)


def _plain(value: Any) -> Any:
    if isinstance(value, Enum):
        return value.value
    return [_plain(part) for part in value] if isinstance(value, tuple) else value

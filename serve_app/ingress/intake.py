"""A request's picture: sent or fetched, bounded, and known to be a picture before a job exists."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from fastapi import UploadFile

from deployments.errors import InputError
from deployments.preprocess.decode import inspect_image
from serve_app.ingress.fetch import fetch
from serve_app.ingress.room import Room

SUFFIXES = {"PNG": ".png", "JPEG": ".jpg", "WEBP": ".webp"}


@dataclass(frozen=True)
class Picture:
    """Bytes that are a picture within the service's limits, and the suffix of their format."""

    data: bytes
    suffix: str


async def take_picture(image: UploadFile | None, image_url: str | None, room: Room) -> Picture:
    """The picture of a request that has exactly one of ``image`` and ``image_url``.

    :raises InputError: ``image_missing``, ``image_conflict``, ``image_empty``,
        ``upload_too_large``, what :func:`fetch` and the inspection of the picture raise.
    """
    sent = image is not None and bool(image.filename or image.size)
    if sent and image_url:
        raise InputError(
            "the request has both image and image_url; exactly one is used. Send one of them",
            code="image_conflict",
        )
    if image_url:
        data = await fetch(image_url, room.fetch_limits, resolver=room.resolver)
    elif sent and image is not None:
        data = await _read(image, room.max_upload_bytes)
    else:
        raise InputError(
            "the request has neither image nor image_url. Send the picture as a file field, "
            "curl -F image=@photo.png, or its address as image_url",
            code="image_missing",
        )
    return await check_picture(data, room)


async def check_picture(data: bytes, room: Room) -> Picture:
    """Refuse bytes that are no PNG, JPEG or WebP picture within the limits."""
    if not data:
        raise InputError(
            "the picture has 0 bytes. Send a PNG, JPEG or WebP picture", code="image_empty"
        )
    settings = room.settings
    header = await asyncio.to_thread(
        inspect_image,
        data,
        max_megapixels=settings.max_megapixels,
        min_side=settings.min_side_px,
    )
    return Picture(data, SUFFIXES[header.format])


async def _read(image: UploadFile, max_bytes: int) -> bytes:
    data = await image.read(max_bytes + 1)
    if len(data) > max_bytes:
        raise InputError(
            f"image has more than {max_bytes:,} bytes, which is the limit. "
            "Send a smaller or more compressed picture",
            code="upload_too_large",
        )
    return data

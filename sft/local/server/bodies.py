"""Bodies in and answers out: packed, too large, malformed, and the SDK's types."""

from __future__ import annotations

import asyncio
from typing import TypeVar

import pydantic
import zstandard
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from sft.local.server.wire import BadRequest

LARGEST_BODY = 256 << 20  # bytes, unpacked

Message = TypeVar("Message", bound=pydantic.BaseModel)


async def read_body(request: Request) -> bytes:
    """The body, unpacked. Raises `HTTPException` if it is too large or packed in an unknown way."""
    too_large = HTTPException(413, f"the body is larger than {LARGEST_BODY} bytes")
    parts, size = [], 0
    async for part in request.stream():
        parts.append(part)
        size += len(part)
        if size > LARGEST_BODY:
            raise too_large
    body = b"".join(parts)
    encoding = request.headers.get("content-encoding", "identity")
    if encoding == "identity":
        return body
    if encoding != "zstd":
        raise HTTPException(422, f"Content-Encoding is {encoding!r}: expected zstd or none")
    try:
        return await asyncio.to_thread(_unpack, body)
    except zstandard.ZstdError as error:
        raise HTTPException(422, f"the body is not zstd: {error}") from error
    except OverflowError as error:
        raise too_large from error


def _unpack(body: bytes) -> bytes:
    reader = zstandard.ZstdDecompressor().stream_reader(body, read_across_frames=True)
    unpacked = reader.read(LARGEST_BODY + 1)
    if len(unpacked) > LARGEST_BODY:
        raise OverflowError
    return unpacked


async def read_message(request: Request, kind: type[Message]) -> Message:
    """The body as one of the SDK's types. Raises `BadRequest`, which names each wrong field."""
    try:
        return kind.model_validate_json(await read_body(request))
    except pydantic.ValidationError as error:
        faults = [
            f"{'.'.join(str(part) for part in fault['loc']) or 'body'}: {fault['msg']}"
            for fault in error.errors()
        ]
        raise BadRequest(f"not a {kind.__name__}: {'; '.join(faults[:5])}") from error


def answer(message: pydantic.BaseModel) -> Response:
    return Response(message.model_dump_json(exclude_none=True), media_type="application/json")

"""Asked: what a stranger sends to a model's server, read within bounds before a model sees it."""

import asyncio
import json
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from starlette.requests import Request

LARGEST_REQUEST = 2**23
"""Bytes; the longest context of a model that is served has fewer."""
REQUEST_SECONDS = 60.0
"""A request has come whole by then."""
HANG_UP_SECONDS = 0.5
"""How often it is looked whether a client still waits."""
MOST_TOKENS = 2**15
TOKEN_FIELDS = ("max_tokens", "max_completion_tokens", "max_output_tokens")
UNTAKEN = ("generation_config",)
"""Fields that would set what the engine was started with."""


class Unfit(ValueError):
    """A request that is answered here; `status` is that of HTTP."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


async def read_request(request: "Request") -> dict[str, Any]:
    """Return what a request asks; raises `Unfit` for one that no client of a language model sends."""
    from starlette.requests import ClientDisconnect

    body = bytearray()
    try:
        async with asyncio.timeout(REQUEST_SECONDS):
            async for piece in request.stream():
                body += piece
                if len(body) > LARGEST_REQUEST:
                    raise Unfit(413, f"a request has at most {LARGEST_REQUEST:,} bytes")
    except ClientDisconnect:
        raise Unfit(499, "the client hung up") from None
    except TimeoutError:
        raise Unfit(408, f"the request did not come within {REQUEST_SECONDS:g} s") from None
    try:
        asked = json.loads(body)
    except (ValueError, RecursionError):
        raise Unfit(400, "the request is not JSON") from None
    if not isinstance(asked, dict):
        raise Unfit(400, "the request is no JSON object")
    for field in TOKEN_FIELDS:
        wanted = asked.get(field)
        if wanted is not None and (type(wanted) is not int or not 1 <= wanted <= MOST_TOKENS):
            raise Unfit(400, f"{field} is a whole number from 1 to {MOST_TOKENS:,}")
    return {field: value for field, value in asked.items() if field not in UNTAKEN}


def has_chat_template(directory: Path) -> bool:
    """Say whether a model's folder holds a chat template, in a file of its own or in the tokenizer's settings."""
    if any((directory / name).exists() for name in ("chat_template.jinja", "chat_template.json")):
        return True
    try:
        return bool(json.loads((directory / "tokenizer_config.json").read_text(encoding="utf-8")).get("chat_template"))
    except (OSError, ValueError):
        return False


async def while_connected(request: "Request", work: Any) -> Any:
    """Return what comes of work, or None where the client hung up first: then nobody waits for it."""
    task = asyncio.ensure_future(work)
    try:
        while not (await asyncio.wait({task}, timeout=HANG_UP_SECONDS))[0]:
            if await request.is_disconnected():
                return None
        return await task
    finally:
        if not task.done():
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task

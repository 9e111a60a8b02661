"""Receives uploads: streamed to the disk, within a limit of bytes and of time."""

from __future__ import annotations

import asyncio
import secrets
import shutil
from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from hiif_deploy.server.web import RequestError

if TYPE_CHECKING:
    from starlette.requests import Request

    from hiif_deploy.server.options import Limits

MAX_FIELDS = 20
"""Fields beside the file in a form."""
MAX_NAME = 100
"""Characters kept of a file's name."""


@dataclass(frozen=True)
class Upload:
    """A file that has arrived; whoever receives it moves or removes it."""

    path: Path
    name: str
    """As the client gave it, without folders: for people, never a path."""
    fields: Mapping[str, str] = field(default_factory=dict)
    """The other fields of the form."""


async def receive(request: Request, folder: Path, limits: Limits) -> Upload:
    """Write the body of a request, raw or a form with one file, to a new file in `folder`.

    RequestError: 400 for a form without a file, 408 where it takes too long, 413 where it is too large.
    """
    path = folder / f"{secrets.token_hex(8)}.part"
    from starlette.requests import ClientDisconnect

    try:
        async with asyncio.timeout(limits.upload_seconds):
            if request.headers.get("content-type", "").startswith("multipart/form-data"):
                return await _form(request, path, limits.upload_bytes)
            return await _raw(request, path, limits.upload_bytes)
    except TimeoutError:
        path.unlink(missing_ok=True)
        raise RequestError(408, f"the upload took longer than {limits.upload_seconds:g} seconds") from None
    except ClientDisconnect:
        path.unlink(missing_ok=True)
        raise RequestError(499, "the client has left") from None
    except BaseException:
        path.unlink(missing_ok=True)
        raise


async def _raw(request: Request, path: Path, limit: int) -> Upload:
    with path.open("xb") as file:
        async for part in limited(request, limit):
            await asyncio.to_thread(file.write, part)
        if file.tell() == 0:
            raise RequestError(400, "the request has no body: send a picture, or a form with a field `file`")
    return Upload(path, "picture")


async def _form(request: Request, path: Path, limit: int) -> Upload:
    from starlette.datastructures import UploadFile
    from starlette.formparsers import MultiPartException, MultiPartParser

    # The parser itself writes files of more than a mebibyte to the disk.
    parser = MultiPartParser(request.headers, limited(request, limit), max_files=1, max_fields=MAX_FIELDS)
    try:
        form = await parser.parse()
    except (MultiPartException, KeyError, UnicodeDecodeError) as error:
        raise RequestError(400, f"the form cannot be read ({error})") from error
    try:
        sent = next((value for value in form.values() if isinstance(value, UploadFile)), None)
        if sent is None:
            raise RequestError(400, "the form has no file: send the picture as a field `file`")
        with path.open("xb") as file:
            await asyncio.to_thread(shutil.copyfileobj, sent.file, file)
        fields = {name: value for name, value in form.items() if isinstance(value, str)}
        return Upload(path, plain_name(sent.filename or "picture"), fields)
    finally:
        await form.close()


async def limited(request: Request, limit: int) -> AsyncGenerator[bytes, None]:
    """Parts of the body. RequestError 413 where it is longer than `limit` bytes, before it is read where it says so."""
    reason = f"the upload has more than {limit >> 20} MiB, the limit of this server"
    stated = request.headers.get("content-length", "0")
    if stated.isascii() and stated.isdecimal() and int(stated) > limit:
        raise RequestError(413, reason)
    total = 0
    async for part in request.stream():
        total += len(part)
        if total > limit:
            raise RequestError(413, reason)
        yield part


def plain_name(name: str) -> str:
    """Return a client's file name without folders and control characters."""
    plain = name.replace("\\", "/").rpartition("/")[2]
    return "".join(character for character in plain if character.isprintable())[:MAX_NAME] or "picture"

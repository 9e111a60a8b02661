"""Settings and limits of a server."""

import ipaddress
import re
from dataclasses import dataclass
from pathlib import Path

from hiif_deploy.errors import OptionError

MIN_TOKEN = 16
"""Fewest characters of a token: shorter ones can be guessed."""
TOKEN = re.compile(rf"[A-Za-z0-9._~+/=-]{{{MIN_TOKEN},}}")
"""What a header and a cookie can hold as it is (RFC 6750)."""
MIB = 1 << 20


@dataclass(frozen=True)
class Limits:
    """Bounds of what clients can make a server do. Every request beyond one is refused with the reason."""

    input_pixels: int = 1 << 26
    """Pixels of a picture, read in its header before it is decoded."""
    output_pixels: int = 1 << 26
    """Pixels of one response or upscaled picture."""
    upload_bytes: int = 256 * MIB
    """Bytes of one upload."""
    upload_seconds: float = 60
    """Seconds until an upload has arrived."""
    uploads_bytes: int = 2048 * MIB
    """Bytes of all uploads that are kept; the oldest ones are removed."""
    features_bytes: int = 1024 * MIB
    """Bytes of features in memory."""
    pictures_bytes: int = 512 * MIB
    """Bytes of decoded pictures in memory."""
    tiles_bytes: int = 1024 * MIB
    """Bytes of encoded tiles on the disk."""
    weights_bytes: int = 512 * MIB
    """Bytes of the weights of models in other precisions than the server's own."""
    job_bytes: int = 4096 * MIB
    """Planned memory of one upscaled picture."""
    queue: int = 64
    """Tiles that wait at most."""
    jobs: int = 16
    """Jobs that wait at most."""
    finished_jobs: int = 32
    """Finished jobs that are kept."""
    results_bytes: int = 2048 * MIB
    """Bytes of the results of finished jobs."""
    clip_upload_bytes: int = 2048 * MIB
    """Bytes of one uploaded clip."""
    clip_upload_seconds: float = 600
    """Seconds until a clip has arrived."""
    clip_uploads: int = 4
    """Clips that arrive at the same time."""
    clip_frames: int = 100_000
    """Frames of one clip."""
    clips: int = 8
    """Clips that wait at most."""
    kept_clips: int = 32
    """Clips that are kept and neither wait nor run."""
    clips_bytes: int = 8192 * MIB
    """Bytes of all clips on the disk, with their results and those planned."""
    seconds: float = 300
    """Seconds that one request may compute."""


@dataclass(frozen=True)
class ServeOptions:
    """Where a server listens, who may use it, and where it keeps files."""

    host: str = "127.0.0.1"
    """Address to listen on."""
    port: int = 8000
    """Port to listen on; 0: any free one."""
    token: str | None = None
    """What clients must send; None: nothing, on loopback only."""
    cors: tuple[str, ...] = ()
    """Origins whose pages may read all responses; `*`: any."""
    cache: Path | None = None
    """Folder of tiles, uploads and clips that servers of a machine may share; None: one that is removed at the end."""
    limits: Limits = Limits()

    def __post_init__(self) -> None:
        if self.token is not None and not TOKEN.fullmatch(self.token):
            raise OptionError(
                f"the token has {len(self.token)} characters: expected {MIN_TOKEN} or more of A-Z a-z 0-9 . _ ~ + / = -"
            )
        if self.token is None and not is_loopback(self.host):
            raise OptionError(
                f"--host {self.host}: others could reach this server, so it needs a token that they must send "
                "(--token TEXT or --token-file FILE); without one, leave --host out and it serves this machine only"
            )
        if not 0 <= self.port < 1 << 16:
            raise OptionError(f"--port {self.port}: expected 0 to 65535")


def is_loopback(host: str) -> bool:
    """Return whether an address reaches this machine alone."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False

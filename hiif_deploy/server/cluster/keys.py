"""Which requests go to the same replica: all those of one picture, whose features it holds, of one job or clip."""

import hashlib
import re
import secrets
from collections.abc import Mapping
from urllib.parse import unquote

LENGTH = 8
"""Hexadecimal digits of a key, and of a replica's tag. Ids that a replica gives to uploads, jobs and clips begin with
the key of their request and its own tag."""
OWNED = re.compile(rf"u?([0-9a-f]{{{LENGTH}}})([0-9a-f]{{{LENGTH}}})[0-9a-f]{{32}}(?:-[0-9]+)?")
"""Ids of uploads (with a u), of jobs, and of clips and their frames."""


def route_of(path: str, query: Mapping[str, str]) -> str:
    """Return where a request goes, from its path and its parameters: KEY, or KEY:TAG for what a replica holds.

    The key is a random one where any replica will do.
    """
    parts = path.strip("/").split("/")
    if parts[0] == "iiif" and len(parts) > 1:
        return _route(unquote(parts[1]).partition("@")[0])
    if parts[:2] in (["v1", "pictures"], ["v1", "jobs"], ["v1", "clips"]) and len(parts) > 2:
        return _route(parts[2])
    if "picture" in query:
        return _route(query["picture"])
    return secrets.token_hex(LENGTH // 2)


def key_in(route: str) -> str:
    """Return the key of a route."""
    return route.partition(":")[0]


def holder(route: str) -> str | None:
    """Return the tag of the replica that holds what a route is for."""
    return route.partition(":")[2] or None


def tag_of(replica: str) -> str:
    """Return a replica's tag, from its id in Ray."""
    return hashlib.sha256(replica.encode()).hexdigest()[:LENGTH]


def _route(id_: str) -> str:
    owned = OWNED.fullmatch(id_)
    return f"{owned[1]}:{owned[2]}" if owned else hashlib.sha256(id_.encode()).hexdigest()[:LENGTH]

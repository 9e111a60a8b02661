"""Which requests go to the same replica: all those of one picture, whose features it holds, of one job or clip."""

import hashlib
import re
import secrets
from collections.abc import Mapping
from urllib.parse import unquote

LENGTH = 8
"""Hexadecimal digits of a key. Ids that a replica gives to uploads and jobs begin with the key of their request."""
OWNED = re.compile(rf"u?([0-9a-f]{{{LENGTH}}})[0-9a-f]{{32}}(?:-\d+)?")
"""Ids of uploads (with a u), of jobs, and of clips and their frames."""


def route_key(path: str, query: Mapping[str, str]) -> str:
    """Return the key of a request, from its path and its parameters; a random one where any replica will do."""
    parts = path.strip("/").split("/")
    if parts[0] == "iiif" and len(parts) > 1:
        return key_of(unquote(parts[1]).partition("@")[0])
    if parts[:2] in (["v1", "pictures"], ["v1", "jobs"], ["v1", "clips"]) and len(parts) > 2:
        return key_of(parts[2])
    if "picture" in query:
        return key_of(query["picture"])
    return secrets.token_hex(LENGTH // 2)


def key_of(id_: str) -> str:
    """Return the key in an id of an upload or a job, or that of another picture's id."""
    owned = OWNED.fullmatch(id_)
    return owned[1] if owned else hashlib.sha256(id_.encode()).hexdigest()[:LENGTH]

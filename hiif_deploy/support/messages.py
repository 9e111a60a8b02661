"""Escapes text so that it neither controls the terminal nor breaks a JSON reader."""

import json
import re
import unicodedata
from typing import Any


def printable(text: str) -> str:
    """Return `text` with control characters and undecodable bytes escaped: file names must not control the terminal.

    Line breaks and tabs stay.
    """
    return text if text.isprintable() else "".join(map(_shown, text))


def shortened(value: Any) -> str:
    """Return `repr(value)` in at most 60 characters."""
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}…"


def json_text(value: Any) -> str:
    """Return indented JSON that every Unicode encoding can represent; undecodable bytes of file names are escaped.

    `json.loads` restores the names that `os.fsencode` accepts.
    """
    text = json.dumps(value, indent=1, ensure_ascii=False)
    return re.sub("[\x7f-\x9f\ud800-\udfff]", lambda found: f"\\u{ord(found[0]):04x}", text)


def _shown(character: str) -> str:
    if character.isprintable() or character in "\n\t" or unicodedata.category(character) == "Zs":
        return character
    # Python holds a byte of a file name that is no UTF-8 as a character from here on.
    if 0xDC80 <= ord(character) <= 0xDCFF:
        return f"\\x{ord(character) & 0xFF:02x}"
    return character.encode("unicode_escape").decode()

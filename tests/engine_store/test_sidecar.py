"""A sidecar is read from a file that anyone may have changed: what does not belong there is refused by name."""

from __future__ import annotations

import json
import math
import os
import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hiif_deploy.engine_store.entry import (
    CHECKSUM,
    MAX_SIDECAR,
    RefusedEngine,
    make_sidecar,
    read_sidecar,
    sidecar_bytes,
)
from hiif_deploy.engine_store.identity import json_sha256
from hiif_deploy.engine_store.store import EngineStore
from hiif_deploy.errors import EngineError
from sample_engine import make_identity, plan_bytes


def sidecar_value() -> dict[str, Any]:
    value: dict[str, Any] = json.loads(sidecar_bytes(make_sidecar(make_identity(), plan_bytes(), 1.5, {"psnr": 70.5})))
    return value


def sealed(value: dict[str, Any]) -> str:
    """The text of a sidecar with the right checksum, whatever stands in it."""
    content = {name: item for name, item in value.items() if name != CHECKSUM}
    return json.dumps({**content, CHECKSUM: json_sha256(content)})


def refused(path: Path, text: str | bytes, message: str) -> None:
    """Reading says so in one printable line, and the store reports it as corrupt and goes on."""
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    with pytest.raises(EngineError, match=re.escape(message)) as caught:
        read_sidecar(path)
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 500
    (entry,) = EngineStore.open(path.parents[1]).entries()
    assert isinstance(entry, RefusedEngine)
    assert entry.reason == str(caught.value)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where the sidecar of an engine lies."""
    engine = EngineStore.open(tmp_path / "store").get_or_build(make_identity(), lambda: (plan_bytes(), {}))
    return engine.path.with_suffix(".json")


def test_a_sidecar_comes_back_as_it_was(tmp_path: Path) -> None:
    sidecar = make_sidecar(make_identity(bundle="名前"), plan_bytes(), 1.23456, {"psnr": 70.5, "cases": [1, None]})
    (tmp_path / "a.json").write_bytes(sidecar_bytes(sidecar))
    assert read_sidecar(tmp_path / "a.json") == sidecar
    assert sidecar.build_seconds == 1.235
    assert "名前" in (tmp_path / "a.json").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "damaged (Expecting value"),
        ("[]", "damaged (it is []: expected an object)"),
        ("null", "damaged (it is None: expected an object)"),
        ("{}", "damaged (its contents do not have the checksum"),
        ("{" * 3000, "damaged (Expecting property name"),
        ("[" * 100_000, "damaged ("),
        ('{"a":' * 100_000, "damaged ("),
        ("9" * 5000, "damaged (Exceeds the limit"),
        (" " * (MAX_SIDECAR + 1), "larger than 1048576 bytes"),
        (b"\xff\xfe\xff", "damaged ("),
        (b"\x00" * 500, "damaged ("),
    ],
    ids=lambda value: repr(value[:8]),
)
def test_what_is_not_a_sidecar_is_refused(path: Path, text: str | bytes, message: str) -> None:
    refused(path, text, message)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("format", "hiif-deploy engine 2", "sidecar.format is 'hiif-deploy engine 2'"),
        ("identity", None, "sidecar.identity is None: expected an object"),
        ("sha256", "../../etc/passwd", "sha256 is '../../etc/passwd': expected 64 hexadecimal digits"),
        ("size", -1, "size is -1: expected at least one byte"),
        ("size", "5000", "sidecar.size is '5000'"),
        ("size", True, "sidecar.size is True"),
        ("created", "yesterday", "Invalid isoformat string: 'yesterday'"),
        ("created", "\x1b]0;x\x07", "Invalid isoformat string: '\\x1b]0;x\\x07'"),
        ("build_seconds", -1, "build seconds is -1.0"),
        ("report", [], "sidecar.report is []"),
        ("\x1b[2J\n", 1, "sidecar has unknown '\\x1b[2J\\n'"),
        ("x" * 100_000, 1, "sidecar has unknown 'xxx"),
    ],
    ids=lambda value: repr(value)[:30],
)
def test_a_value_that_does_not_belong_is_named(path: Path, key: str, value: Any, message: str) -> None:
    refused(path, sealed({**sidecar_value(), key: value}), message)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("bundle", "x" * 10_000, "bundle is 'xxx"),
        ("bundle", "a\nb", "bundle is 'a\\nb'"),
        ("gpu", "\x1b[31m", "gpu is '\\x1b[31m'"),
        ("gpu", 4090, "sidecar.identity.gpu is 4090: expected str"),
        ("profiles", {"\x07": 1}, "sidecar.identity.profiles.  is 1"),
        ("flags", {"level": {"a": {"b": []}}}, "flags.level is {'a': {'b': []}}"),
        ("flags", {"target": ["8.9"]}, "flags.target is ['8.9']"),
    ],
    ids=lambda value: repr(value)[:30],
)
def test_an_identity_that_does_not_belong_is_named(path: Path, key: str, value: Any, message: str) -> None:
    whole = sidecar_value()
    whole["identity"][key] = value
    refused(path, sealed(whole), message)


@pytest.mark.parametrize("text", ["NaN", "Infinity", "-Infinity", "1e999"])
def test_numbers_are_finite(path: Path, text: str) -> None:
    refused(path, json.dumps(sidecar_value()).replace("70.5", text), "damaged (")


def test_a_path_in_a_bundles_name_leads_nowhere(path: Path, tmp_path: Path) -> None:
    sidecar = make_sidecar(make_identity(bundle="../../../outside"), plan_bytes(), 1.0, {})
    path.write_bytes(sidecar_bytes(sidecar))
    store = EngineStore.open(path.parents[1])
    (entry,) = store.entries()
    assert isinstance(entry, RefusedEngine)
    assert entry.reason.startswith("the sidecar is that of outside-encoder-fp16-")
    (removal,) = store.prune()
    assert removal.path == path.with_suffix(".engine")
    assert [item.name for item in tmp_path.iterdir()] == ["store"]


def test_a_folder_in_place_of_a_sidecar_is_corrupt(path: Path) -> None:
    path.unlink()
    path.mkdir()
    (entry,) = EngineStore.open(path.parents[1]).entries()
    assert isinstance(entry, RefusedEngine)
    assert entry.reason == f"{path.name}: not a file"


@pytest.mark.skipif(sys.platform == "win32", reason="needs named pipes")
def test_a_pipe_in_place_of_a_file_is_not_waited_for(path: Path) -> None:
    engine = path.with_suffix(".engine")
    engine.unlink()
    os.mkfifo(engine)
    (entry,) = EngineStore.open(path.parents[1]).entries()
    assert isinstance(entry, RefusedEngine)
    path.unlink()
    os.mkfifo(path)
    (entry,) = EngineStore.open(path.parents[1]).entries()
    assert isinstance(entry, RefusedEngine)
    assert entry.reason == f"{path.name}: not a file"


@pytest.mark.parametrize(
    "value", [b"bytes", math.inf, np.float32(0.5), np.zeros(3), {(1,): 2}, object(), {3, 4}, "\ud800", {"\ud800": 1}]
)
def test_a_report_refuses_what_json_cannot_hold(tmp_path: Path, value: Any) -> None:
    store = EngineStore.open(tmp_path)
    with pytest.raises(EngineError, match="the report of encoder holds what JSON cannot"):
        store.get_or_build(make_identity(), lambda: (plan_bytes(), {"figure": value}))
    assert list((tmp_path / "engines").iterdir()) == []


def test_a_report_that_is_too_large_is_refused(tmp_path: Path) -> None:
    store = EngineStore.open(tmp_path)
    with pytest.raises(EngineError, match=r"size of the report of encoder is 1\d+: expected at most 1048576 bytes"):
        store.get_or_build(make_identity(), lambda: (plan_bytes(), {"text": "x" * MAX_SIDECAR}))
    assert list((tmp_path / "engines").iterdir()) == []

"""An identity survives JSON, has one key everywhere, and an incompatibility is a sentence."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import replace
from typing import Any

import pytest

from hiif_deploy.bundle.contract import from_json, to_json
from hiif_deploy.engine_store.identity import EngineEnvironment, EngineIdentity
from hiif_deploy.errors import BundleError, EngineError
from sample_engine import HERE, make_identity

CHANGES: dict[str, Any] = {
    "bundle": "other",
    "graph": "decoder",
    "precision": "fp32",
    "onnx_sha256": "cd" * 32,
    "library": "tensorrt-rtx",
    "library_version": "10.13.3.10",
    "gpu": "NVIDIA L4",
    "capability": "8.6",
    "driver": "12.9",
    "profiles": {"picture": ((1, 3, 32, 32), (1, 3, 360, 641), (1, 3, 1080, 1920))},
    "flags": {"optimization_level": 4, "target": None},
}
"""Every field with another legal value."""


def refused(message: str, **changes: Any) -> None:
    with pytest.raises(EngineError, match=re.escape(message)) as caught:
        make_identity(**changes)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 300


def test_an_identity_comes_back_from_json_text_as_it_was() -> None:
    identity = make_identity()
    back = from_json(EngineIdentity, json.loads(json.dumps(to_json(identity))))
    assert back == identity
    assert back.key == identity.key


def test_the_key_is_a_sha256_that_every_machine_computes_alike() -> None:
    # The JSON text written by hand: keys sorted, no blanks.
    text = (
        '{"bundle":"hiif-compact","capability":"8.9","driver":"13.0","flags":{"optimization_level":3,'
        '"target":null},"gpu":"NVIDIA GeForce RTX 4090","graph":"encoder",'
        f'"library":"tensorrt","library_version":"10.13.3.9","onnx_sha256":"{"ab" * 32}","precision":"fp16",'
        '"profiles":{"picture":[[1,3,32,32],[1,3,360,640],[1,3,1080,1920]]}}'
    )
    assert make_identity().key == hashlib.sha256(text.encode()).hexdigest()


def test_the_order_of_flags_and_profiles_does_not_change_the_key() -> None:
    one = make_identity(flags={"a": 1, "b": 2}, profiles={"x": ((1,), (1,), (1,)), "y": ((2,), (2,), (2,))})
    two = make_identity(flags={"b": 2, "a": 1}, profiles={"y": ((2,), (2,), (2,)), "x": ((1,), (1,), (1,))})
    assert one.key == two.key


@pytest.mark.parametrize("field", CHANGES)
def test_every_field_changes_the_key(field: str) -> None:
    assert CHANGES.keys() == vars(make_identity()).keys()
    assert make_identity(**{field: CHANGES[field]}).key != make_identity().key


@pytest.mark.parametrize("values", [(1, True), (1, 1.0), (0, False), ("1", 1), (None, "")])
def test_flags_that_python_takes_for_equal_have_keys_of_their_own(values: tuple[Any, Any]) -> None:
    one, two = (make_identity(flags={"level": value}).key for value in values)
    assert one != two


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("bundle", "a\nb", "bundle is 'a\\nb': expected 0 to 200 printable characters"),
        ("bundle", "x" * 201, "bundle is 'xxx"),
        ("bundle", 7, "bundle is 7"),
        ("bundle", "\ud800", "bundle is '\\ud800'"),
        ("graph", "", "graph is '': expected 1 to 200 printable characters"),
        ("graph", "\x1b[2J", "graph is '\\x1b[2J'"),
        ("precision", "int8", "precision is 'int8': expected Literal"),
        ("onnx_sha256", "AB" * 32, "expected 64 hexadecimal digits"),
        ("onnx_sha256", "ab" * 31, "expected 64 hexadecimal digits"),
        ("onnx_sha256", "ab" * 32 + "\n", "onnx_sha256 is 'abab"),
        ("library", "tensorflow", "library is 'tensorflow': expected Literal"),
        ("library_version", "", "library_version is ''"),
        ("gpu", None, "gpu is None: expected str"),
        ("driver", "", "driver is ''"),
        ("capability", "8", "capability is '8': expected a number such as 8.9"),
        ("capability", "8.9\n", "capability is '8.9\\n'"),
        ("profiles", {"x": ((1,), (2,))}, "profiles.x is [[1], [2]]"),
        ("profiles", {"x": ()}, "profiles.x is []"),
        (
            "profiles",
            {"x": ((1,), (2, 2), (3,))},
            "profile of x is ((1,), (2, 2), (3,)): expected 1 ≤ min ≤ opt ≤ max on the same",
        ),
        ("profiles", {"x": ((3,), (2,), (4,))}, "profile of x is ((3,), (2,), (4,)): expected 1 ≤ min ≤ opt ≤ max"),
        ("profiles", {"x": ((0,), (2,), (4,))}, "profile of x is ((0,), (2,), (4,))"),
        ("profiles", {"x": ((True,), (2,), (3,))}, "profiles.x[0][0] is True: expected int"),
        ("profiles", {"": ((1,), (1,), (1,))}, "input is ''"),
        ("flags", {"level": [3]}, "flags.level is [3]: expected bool or int or a finite number or str or NoneType"),
        ("flags", {"level": float("nan")}, "flags.level is nan"),
        ("flags", {"level": "a\rb"}, "flag level is 'a\\rb'"),
    ],
)
def test_a_value_that_no_engine_has_is_named(field: str, value: Any, message: str) -> None:
    refused(message, **{field: value})


@pytest.mark.parametrize("field", CHANGES)
@pytest.mark.parametrize("value", [None, 7, ["x"], {"x": {"y": "z"}}, True])
def test_json_of_the_wrong_type_is_refused(field: str, value: Any) -> None:
    with pytest.raises((EngineError, BundleError), match=field.split("_")[0].rstrip("s")):
        from_json(EngineIdentity, {**to_json(make_identity()), field: value})


@pytest.mark.parametrize("field", ["library", "library_version", "gpu", "capability", "driver"])
def test_an_environment_is_checked_like_an_identity(field: str) -> None:
    with pytest.raises(EngineError, match="expected"):
        replace(HERE, **{field: ""})


def test_an_engine_fits_the_machine_that_built_it() -> None:
    assert str(make_identity()) == str(HERE)
    assert make_identity().incompatibility(HERE) is None


def test_an_incompatibility_names_both_sides_and_every_reason() -> None:
    here = EngineEnvironment("tensorrt", "11.4.0", "NVIDIA L4", "8.9", "12.9")
    assert make_identity().incompatibility(here) == (
        "built by TensorRT 10.13.3.9 for NVIDIA GeForce RTX 4090 (8.9), driver 13.0; "
        "here is TensorRT 11.4.0 for NVIDIA L4 (8.9), driver 12.9: "
        "an engine runs in the version that built it; an engine runs on the GPU it was built for; "
        "it was built under a newer driver"
    )


def test_engines_of_the_other_library_do_not_fit() -> None:
    reason = make_identity().incompatibility(replace(HERE, library="tensorrt-rtx")) or ""
    assert "here is TensorRT-RTX 10.13.3.9" in reason
    assert "the libraries do not run each other's engines" in reason


@pytest.mark.parametrize("version", ["10.13.3.10", "10.9.0.34", "11.4.0"])
def test_engines_of_another_version_do_not_fit(version: str) -> None:
    assert f"TensorRT {version} for" in str(make_identity().incompatibility(replace(HERE, library_version=version)))


@pytest.mark.parametrize(
    ("target", "built", "here", "fits"),
    [
        (None, ("A", "8.9"), ("A", "8.9"), True),
        (None, ("A", "8.9"), ("B", "8.9"), False),
        (None, ("A", "8.9"), ("A", "8.6"), False),
        ("8.9", ("any of capability 8.9", "8.9"), ("B", "8.9"), True),
        ("8.9", ("any of capability 8.9", "8.9"), ("B", "8.6"), False),
    ],
)
def test_an_engine_fits_its_gpu_or_all_of_the_capability_that_it_was_built_for(
    target: str | None, built: tuple[str, str], here: tuple[str, str], fits: bool
) -> None:
    identity = make_identity(flags={"target": target}, gpu=built[0], capability=built[1])
    reason = identity.incompatibility(replace(HERE, gpu=here[0], capability=here[1]))
    assert (reason is None) == fits
    assert fits or f"{built[0]} ({built[1]})" in str(reason)


@pytest.mark.parametrize(("here", "fits"), [("13.0", True), ("13.1", True), ("13.10", True), ("12.9", False)])
def test_an_engine_runs_under_newer_drivers_only(here: str, fits: bool) -> None:
    assert (make_identity().incompatibility(replace(HERE, driver=here)) is None) == fits

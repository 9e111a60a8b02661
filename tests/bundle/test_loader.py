"""A bundle that is not exactly what its contract promises is refused, in one sentence that says why."""

from __future__ import annotations

import errno
import io
import json
import os
import re
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from hiif_deploy.backends.options import EngineOptions
from hiif_deploy.bundle.contract import Contract, from_json
from hiif_deploy.bundle.loader import CONTRACT_FILE, CONTRACT_LIMIT, open_bundle, read_contract, shipped_models
from hiif_deploy.errors import BundleError
from hiif_deploy.upscaler import Upscaler
from sample_contract import GRAPHS, contract_value, graph_bytes, sha256

Change = Callable[[dict[str, Any]], object]
SECRET = b"not for this bundle"


@pytest.fixture
def sample(tmp_path: Path) -> Path:
    """A bundle whose files have the promised hashes, and graphs that do nothing."""
    folder = tmp_path / "sample"
    folder.mkdir()
    (folder / CONTRACT_FILE).write_text(json.dumps(contract_value()), encoding="utf-8")
    for name in GRAPHS:
        (folder / f"{name}.onnx").write_bytes(graph_bytes(name))
    return folder


@pytest.fixture
def copy(tiny_bundle: Path, tmp_path: Path) -> Path:
    """A real bundle that a test may spoil."""
    return Path(shutil.copytree(tiny_bundle, tmp_path / "copy"))


def rewrite(folder: Path, change: Change) -> None:
    path = folder / CONTRACT_FILE
    value = json.loads(path.read_text(encoding="utf-8"))
    change(value)
    path.write_text(json.dumps(value), encoding="utf-8")


def refused(work: Callable[[], object], message: str) -> None:
    with pytest.raises(BundleError, match=re.escape(message)) as caught:
        work()
    assert type(caught.value) is BundleError
    assert "\n" not in str(caught.value)


def load(folder: Path) -> None:
    with Upscaler(folder, engine=EngineOptions(engine="onnxruntime", threads=1)):
        pass


def test_an_opened_bundle_holds_the_contract_and_every_graph(sample: Path) -> None:
    bundle = open_bundle(sample)
    assert bundle.folder == sample
    assert bundle.contract == from_json(Contract, contract_value())
    assert bundle.graphs == {name: graph_bytes(name) for name in GRAPHS}


def test_a_bundle_opens_by_folder_given_as_text(sample: Path) -> None:
    assert open_bundle(str(sample)) == open_bundle(sample)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"", "damaged or not JSON"),
        (json.dumps(contract_value()).encode()[:-200], "damaged or not JSON"),
        (b"\x08\x07\x12\x07pytorch", "damaged or not JSON"),
        (b"\xff\xfe{}", "damaged or not JSON"),
        (b"[" * 200_000, "damaged or not JSON"),
        (b'{"version": ' + b"9" * 5000 + b"}", "damaged or not JSON"),
        (b"[]", "not a hiif-deploy bundle"),
        (b"null", "not a hiif-deploy bundle"),
        (b'{"model": {"name": "hiif"}}', "not a hiif-deploy bundle"),
        (b'{"format": "gltf", "version": 1}', "not a hiif-deploy bundle"),
        (b" " * (CONTRACT_LIMIT + 1), f"larger than {CONTRACT_LIMIT} bytes, so it is not a contract"),
    ],
    ids=["empty", "truncated", "binary", "UTF-16", "deep", "digits", "list", "null", "other", "foreign", "huge"],
)
def test_what_is_no_contract_is_refused_with_the_file_name(sample: Path, text: bytes, message: str) -> None:
    (sample / CONTRACT_FILE).write_bytes(text)
    refused(lambda: open_bundle(sample), f"{sample / CONTRACT_FILE}: {message}")


def test_a_deep_object_inside_free_fields_does_no_harm(sample: Path) -> None:
    deep: Any = "bottom"
    for _ in range(300):
        deep = {"down": deep}
    rewrite(sample, lambda value: value.update(provenance=deep))
    assert open_bundle(sample).contract.provenance == deep


@pytest.mark.parametrize("version", [4, 17])
def test_a_newer_bundle_is_refused_with_the_update_command(sample: Path, version: int) -> None:
    rewrite(sample, lambda value: value.update(version=version, news="unknown to this program"))
    refused(
        lambda: open_bundle(sample),
        f"format version {version} is newer than this program reads (3); update hiif-deploy, in its clone: git",
    )


@pytest.mark.parametrize("version", [None, "1", 0, -1, 1.0, True])
def test_an_impossible_version_is_refused(sample: Path, version: Any) -> None:
    rewrite(sample, lambda value: value.update(version=version))
    refused(lambda: open_bundle(sample), f"version is {version!r}, expected 3")


def test_a_broken_field_is_named_with_file_and_place(sample: Path) -> None:
    rewrite(sample, lambda value: value["graphs"][1].update(sha256=None))
    path = sample / CONTRACT_FILE
    refused(lambda: read_contract(sample), f"{path}: bundle.json.graphs[1].sha256 is None: expected str")


@pytest.mark.parametrize("graph", GRAPHS)
def test_a_flipped_bit_in_a_graph_is_noticed(sample: Path, graph: str) -> None:
    path = sample / f"{graph}.onnx"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    refused(lambda: open_bundle(sample), f"{path}: sha256 is {sha256(bytes(data))[:12]}…, the contract promises")


@pytest.mark.parametrize("graph", GRAPHS)
def test_a_truncated_graph_is_noticed(sample: Path, graph: str) -> None:
    path = sample / f"{graph}.onnx"
    path.write_bytes(path.read_bytes()[:-1])
    refused(lambda: open_bundle(sample), f"{path}: sha256 is ")


@pytest.mark.parametrize("graph", GRAPHS)
def test_a_missing_graph_is_named(sample: Path, graph: str) -> None:
    path = sample / f"{graph}.onnx"
    path.unlink()
    refused(lambda: open_bundle(sample), f"{path}: cannot be read (No such file or directory)")


def test_a_folder_in_the_place_of_a_graph_is_refused(sample: Path) -> None:
    (sample / "maps.onnx").unlink()
    (sample / "maps.onnx").mkdir()
    refused(lambda: open_bundle(sample), f"{sample / 'maps.onnx'}: cannot be read")


NAMES = ["../x", "..", ".", "", "/etc/passwd", "a/b", "./maps.onnx", "maps.onnx/", "..\\x", "C:\\x", "a\0b"]


@pytest.mark.parametrize("name", NAMES, ids=repr)
def test_a_file_name_that_leaves_the_folder_is_refused(sample: Path, name: str) -> None:
    (sample.parent / "x").write_bytes(SECRET)
    rewrite(sample, lambda value: value["graphs"][1].update(file=name, sha256=sha256(SECRET)))
    refused(lambda: open_bundle(sample), f"file name {name!r} leaves the bundle's folder")


@pytest.mark.parametrize("name", NAMES, ids=repr)
def test_a_reference_outside_the_folder_is_not_read(sample: Path, name: str) -> None:
    (sample.parent / "x").write_bytes(SECRET)
    rewrite(sample, lambda value: value["reference"].update(file=name, sha256=sha256(SECRET)))
    refused(open_bundle(sample).reference, f"file name {name!r} leaves the bundle's folder")


def test_a_checkpoint_in_the_place_of_a_bundle_is_refused_with_the_export_command(tmp_path: Path) -> None:
    path = tmp_path / "best.pth"
    path.write_bytes(b"PK")
    refused(lambda: open_bundle(path), f"{path} is a file; a bundle is a folder: make one from a checkpoint with")


def test_a_folder_without_a_contract_is_no_bundle(tmp_path: Path) -> None:
    refused(lambda: open_bundle(tmp_path), f"{tmp_path} holds no bundle.json, so it is not a bundle")


def test_an_unknown_name_is_refused_with_the_shipped_ones() -> None:
    shipped = ", ".join(shipped_models()) or "none"
    message = f"hiif-enormous: no such folder, and no model of that name (shipped: {shipped}"
    refused(lambda: open_bundle("hiif-enormous"), message)


@pytest.mark.parametrize("name", sorted(shipped_models()))
def test_a_shipped_model_opens_by_its_name(name: str) -> None:
    assert open_bundle(name).contract.name == name


def test_two_graphs_in_each_others_place_are_refused_on_loading(copy: Path) -> None:
    def swap(value: dict[str, Any]) -> None:
        graphs = {graph["name"]: graph for graph in value["graphs"]}
        for key in ("file", "sha256"):
            one, other = graphs["encoder"], graphs["maps"]
            one[key], other[key] = other[key], one[key]

    rewrite(copy, swap)
    open_bundle(copy)
    refused(lambda: load(copy), "graph encoder: the file has ")


@pytest.mark.parametrize("change", [{"name": "other"}, {"dtype": "int32"}, {"shape": [1]}], ids=str)
@pytest.mark.parametrize("side", ["inputs", "outputs"])
def test_a_tensor_other_than_promised_is_refused_on_loading(copy: Path, side: str, change: dict[str, Any]) -> None:
    rewrite(copy, lambda value: value["graphs"][-1][side][0].update(change))
    name = json.loads((copy / CONTRACT_FILE).read_text(encoding="utf-8"))["graphs"][-1]["name"]
    refused(lambda: load(copy), f"graph {name}: the file has ")


@pytest.mark.parametrize("graph", ["encoder", "maps", "fold_0", "tail"])
@pytest.mark.parametrize("data", [b"", b"no graph", b"\x08\x08"], ids=["empty", "text", "header"])
def test_bytes_that_are_no_graph_are_refused_with_its_name(copy: Path, graph: str, data: bytes) -> None:
    (copy / f"{graph}.onnx").write_bytes(data)
    rewrite(copy, lambda v: next(g for g in v["graphs"] if g["name"] == graph).update(sha256=sha256(data)))
    refused(lambda: load(copy), f"graph {graph}: its file is no ONNX model (")


def test_the_reference_comes_back_as_it_was_stored(sample: Path) -> None:
    arrays = {"image_0": np.arange(24, dtype=np.uint8).reshape(2, 4, 3), "colours_0": np.ones((4, 8, 3), np.float32)}
    store_reference(sample, npz(arrays))
    found = open_bundle(sample).reference()
    assert sorted(found) == sorted(arrays)
    for name, array in arrays.items():
        assert found[name].dtype == array.dtype
        np.testing.assert_array_equal(found[name], array)


def test_an_exported_bundle_has_a_reference_of_pictures_and_colours(tiny_bundle: Path) -> None:
    names = set(open_bundle(tiny_bundle).reference())
    assert {"image_0", "colours_0"} <= names


def test_a_changed_reference_is_noticed(sample: Path) -> None:
    store_reference(sample, npz({"a": np.zeros(3)}))
    path = sample / "reference.npz"
    path.write_bytes(path.read_bytes()[:-1] + b"!")
    refused(open_bundle(sample).reference, f"{path}: sha256 is ")


def test_a_missing_reference_is_named(sample: Path) -> None:
    refused(open_bundle(sample).reference, f"{sample / 'reference.npz'}: cannot be read (No such file or directory)")


@pytest.mark.parametrize("entry", [{}, {"file": "reference.npz"}, {"sha256": "0"}], ids=str)
def test_a_contract_without_a_reference_says_so(sample: Path, entry: dict[str, str]) -> None:
    rewrite(sample, lambda value: value.update(reference=entry))
    refused(open_bundle(sample).reference, f"{sample / CONTRACT_FILE} names no reference")


@pytest.mark.parametrize("kind", ["empty", "text", "truncated", "array", "pickle"])
def test_a_reference_that_is_no_archive_of_arrays_is_refused(sample: Path, kind: str) -> None:
    single, pickled = io.BytesIO(), io.BytesIO()
    np.save(single, np.zeros(3))
    np.savez(pickled, a=np.array([{}], dtype=object))
    data = {
        "empty": b"",
        "text": b"no arrays",
        "truncated": npz({"a": np.zeros(300)})[:-100],
        "array": single.getvalue(),
        "pickle": pickled.getvalue(),
    }[kind]
    store_reference(sample, data)
    refused(open_bundle(sample).reference, f"{sample / 'reference.npz'}: not readable reference tensors (")


def npz(arrays: dict[str, Any]) -> bytes:
    stream = io.BytesIO()
    np.savez_compressed(stream, **arrays)
    return stream.getvalue()


def store_reference(folder: Path, data: bytes) -> None:
    (folder / "reference.npz").write_bytes(data)
    rewrite(folder, lambda value: value.update(reference={"file": "reference.npz", "sha256": sha256(data)}))


def test_a_bundle_is_printed_without_its_files(tiny_bundle: Path) -> None:
    assert len(repr(open_bundle(tiny_bundle))) < 50_000


def test_a_graph_that_reads_a_file_of_the_current_directory_is_refused_unloaded(copy: Path) -> None:
    model = onnx.load(copy / "maps.onnx")
    onnx.external_data_helper.set_external_data(model.graph.initializer[0], location="secret.txt")
    data = model.SerializeToString()
    (copy / "maps.onnx").write_bytes(data)
    rewrite(copy, lambda v: next(g for g in v["graphs"] if g["name"] == "maps").update(sha256=sha256(data)))
    refused(lambda: open_bundle(copy), "graph maps: its file has external data")


def test_a_device_in_the_place_of_a_graph_is_not_read(sample: Path) -> None:
    (sample / "maps.onnx").unlink()
    (sample / "maps.onnx").symlink_to("/dev/zero")
    refused(lambda: open_bundle(sample), f"{sample / 'maps.onnx'}: cannot be read (not a regular file)")


def test_a_device_or_a_pipe_in_the_place_of_the_contract_is_not_read(sample: Path) -> None:
    path = sample / CONTRACT_FILE
    path.unlink()
    path.symlink_to(os.devnull)
    refused(lambda: read_contract(sample), f"{path}: damaged or not JSON ([Errno {errno.EINVAL}] not a regular file)")
    path.unlink()
    os.mkfifo(path)
    refused(lambda: read_contract(sample), "not a regular file")


def test_a_reference_that_unpacks_to_gigabytes_is_refused_packed(sample: Path) -> None:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        for n in range(5):
            archive.writestr(f"{n}.npy", bytes(1 << 26))
    store_reference(sample, stream.getvalue())
    refused(open_bundle(sample).reference, f"{sample / 'reference.npz'}: unpacks to {5 << 26} bytes: expected at most")

"""Exporting a bundle: what it contains, and that nothing else is left behind whatever happens."""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch

import hiif_export.export
from hiif_deploy.bundle.contract import TrainedFor
from hiif_deploy.bundle.loader import CONTRACT_FILE, open_bundle
from hiif_deploy.errors import OptionError, ParityError
from hiif_deploy.rendering.verify import TOLERANCES
from hiif_deploy.upscaler import Upscaler
from hiif_export.export import export_bundle, file_provenance
from hiif_export.graphs.graph import Graph
from hiif_export.graphs.onnx_file import OPSET
from hiif_export.parity.parity import Deviation, cases, check, compare, torch_colours, torch_features
from hiif_training.models.encoders.edsr import Edsr, EdsrConfig
from hiif_training.models.hiif import Hiif, HiifConfig

torch.set_num_threads(1)

WHOLE = ("encoder", "maps", "statistics_0", "fold_0", "statistics_1", "fold_1", "decoder")
STAGES = ("first", "sums_0", "mix_0", "sums_1", "tail")
GRAPHS = WHOLE + STAGES
FILES = sorted([CONTRACT_FILE, "reference.npz", *(f"{name}.onnx" for name in GRAPHS)])
TOLERANCE = TOLERANCES["fp32"].largest
SPEC: dict[str, Any] = {"name": "hiif", "args": {"note": "stands for the real arguments"}}

Export = Callable[..., list[Deviation]]


@pytest.fixture
def export(tiny_model: Hiif, tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> Export:
    """`export_bundle` that takes the graphs of `tiny_bundle`, so that nothing is exported anew."""

    def ready_made(graph: Graph) -> onnx.ModelProto:
        return onnx.load(tiny_bundle / f"{graph.name}.onnx")

    monkeypatch.setattr(hiif_export.export, "to_onnx", ready_made)

    def run(folder: Path, model: Hiif = tiny_model, **options: Any) -> list[Deviation]:
        suite = cases(sizes=((6, 9),), scales=(2.0,))
        return export_bundle(model, SPEC, folder, **{"name": "one", "provenance": {}, "suite": suite, **options})

    return run


def contents(folder: Path) -> dict[str, bytes]:
    """Every file below a folder, hidden ones included."""
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def broken(model: Hiif, part: str) -> Hiif:
    """The same model but for one weight, so that the ready-made graphs do not fit it."""
    other = copy.deepcopy(model)
    with torch.no_grad():
        other.get_parameter(part).add_(0.05)
    return other


def test_a_bundle_has_a_contract_its_graphs_and_reference_outputs(export: Export, tmp_path: Path) -> None:
    export(tmp_path / "bundle")
    assert sorted(path.name for path in (tmp_path / "bundle").iterdir()) == FILES
    assert [path.name for path in tmp_path.iterdir()] == ["bundle"]


def test_folders_above_a_bundle_are_made(export: Export, tmp_path: Path) -> None:
    export(tmp_path / "new" / "folder" / "bundle")
    assert open_bundle(tmp_path / "new" / "folder" / "bundle").contract.name == "one"


def test_a_bundle_is_readable_by_everyone(export: Export, tmp_path: Path) -> None:
    export(tmp_path / "bundle")
    assert (tmp_path / "bundle").stat().st_mode & 0o777 == 0o755


def test_the_contract_describes_the_model(tiny_model: Hiif, export: Export, tmp_path: Path) -> None:
    provenance = {"weights": "random", "torch": "another"}
    export(tmp_path / "bundle", training_scales=(1.0, 6.0), provenance=provenance)
    contract = open_bundle(tmp_path / "bundle").contract
    assert contract.name == "one"
    assert contract.model == SPEC
    assert contract.parameters == sum(p.numel() for p in tiny_model.parameters())
    assert contract.training_scales == (1.0, 6.0)
    assert contract.normalisation.mean == contract.normalisation.std == (0.5, 0.5, 0.5)
    assert contract.encoder.channels == 16
    assert contract.encoder.receptive_field == 6
    assert contract.encoder.size_multiple == 1
    assert contract.decoder.statistics_passes == 2
    assert contract.decoder.map_channels == 4 * 48 + 2 + 2 * 32
    assert contract.decoder.levels == 6
    assert contract.decoder.bits == "exact"
    assert contract.decoder.halo == 1
    assert contract.decoder.skip == "bilinear"
    assert contract.provenance["weights"] == "random"
    assert contract.provenance["torch"] == "another"
    assert contract.provenance["opset"] == OPSET
    assert {"exported", "hiif_deploy", "onnx", "onnxruntime", "opset"} <= set(contract.provenance)


def test_the_contract_holds_the_hash_of_every_file(export: Export, tmp_path: Path) -> None:
    export(tmp_path / "bundle")
    value = json.loads((tmp_path / "bundle" / CONTRACT_FILE).read_text(encoding="utf-8"))
    promised = {entry["file"]: entry["sha256"] for entry in [*value["graphs"], value["reference"]]}
    assert sorted([*promised, CONTRACT_FILE]) == FILES
    for name, digest in promised.items():
        assert hashlib.sha256((tmp_path / "bundle" / name).read_bytes()).hexdigest() == digest


def test_the_contract_holds_the_measured_deviation_of_every_case(export: Export, tmp_path: Path) -> None:
    suite = cases(sizes=((6, 9), (3, 4)), scales=(2.0, 3.3))
    found = export(tmp_path / "bundle", suite=suite)
    parity = open_bundle(tmp_path / "bundle").contract.parity
    assert len(found) == len(parity["cases"]) == 4
    assert parity["max_error"] == max(deviation.colours for deviation in found)
    assert parity["min_psnr_db"] == min(deviation.psnr for deviation in found)
    assert 0 < parity["max_error"] <= TOLERANCE
    assert parity["min_psnr_db"] > 100
    assert {entry["graph"] for entry in parity["graphs"]} == set(GRAPHS)
    assert max(entry["error"] / entry["largest"] for entry in parity["graphs"]) < 1e-5
    assert [case["target"] for case in parity["cases"]] == [[12, 18], [20, 30], [6, 8], [10, 13]]


def test_the_reference_outputs_are_pytorchs_own(tiny_model: Hiif, export: Export, tmp_path: Path) -> None:
    export(tmp_path / "bundle")
    with Upscaler(tmp_path / "bundle") as upscaler:
        stored = upscaler.bundle.reference()
        assert sorted(stored) == sorted(f"{kind}_{n}" for kind in ("image", "colours") for n in range(3))
        for n in range(3):
            image, colours = stored[f"image_{n}"], stored[f"colours_{n}"]
            target = (colours.shape[0], colours.shape[1])
            features = torch_features(tiny_model, upscaler.contract, image)
            expected = torch_colours(tiny_model, upscaler.contract, image, features, target)
            np.testing.assert_allclose(colours, expected, atol=1e-6)
            answer = upscaler.render_unclamped(upscaler.encode(image), size=target)
            np.testing.assert_allclose(answer, colours, atol=TOLERANCE)


def test_the_stages_are_logged_in_order(export: Export, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "hiif_export")
    export(tmp_path / "bundle")
    assert [line.partition(":")[0].partition(",")[0] for line in caplog.messages] == [
        f"exported {len(GRAPHS)} graphs", "verified fp32",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("part", "graph"),
    [
        ("encoder.head.0.weight", "graph encoder: output features"),
        ("freq.weight", "graph maps: output map_0"),
        ("fc_layers.0.fc1.bias", "graph statistics_0: output outer"),
        ("conv0.kln.weight", "graph fold_0: output attention_0_weight"),
        ("conv0.proj2.weight", "graph statistics_1: output outer"),
        ("conv1.proj1.bias", "graph fold_1: output attention_1_bias"),
        ("fc_layers.5.fc2.bias", "graph decoder: output colour"),
    ],
)
def test_a_graph_that_deviates_is_named_and_nothing_is_left_behind(
    tiny_model: Hiif, export: Export, tmp_path: Path, part: str, graph: str
) -> None:
    with pytest.raises(ParityError, match=rf"^{graph} differs from PyTorch by .*, allowed 1e-04 of that"):
        export(tmp_path / "bundle", broken(tiny_model, part))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("part", "where"),
    [
        ("encoder.head.0.weight", "already in the encoder's features"),
        ("freq.weight", "in the decoder"),
        ("fc_layers.5.fc2.bias", "in the decoder"),
    ],
)
def test_colours_that_deviate_are_refused_and_nothing_is_left_behind(
    tiny_model: Hiif, export: Export, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, part: str, where: str
) -> None:
    monkeypatch.setattr(hiif_export.export, "check_graphs", lambda *_: None)
    with pytest.raises(ParityError, match=rf"differ from PyTorch by .*, allowed 1.0e-04; .* arises {where}"):
        export(tmp_path / "bundle", broken(tiny_model, part))
    assert not list(tmp_path.iterdir())


def test_graphs_that_deviate_leave_an_existing_bundle_as_it_was(
    tiny_model: Hiif, export: Export, tmp_path: Path
) -> None:
    export(tmp_path / "bundle")
    before = contents(tmp_path)
    with pytest.raises(ParityError):
        export(tmp_path / "bundle", broken(tiny_model, "freq.weight"), name="two", overwrite=True)
    assert contents(tmp_path) == before


@pytest.mark.parametrize("stage", ["exported", "verified"])
@pytest.mark.parametrize("exists", [False, True])
def test_an_interrupted_export_changes_nothing(
    export: Export, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stage: str, exists: bool
) -> None:
    if exists:
        export(tmp_path / "bundle")
    before = contents(tmp_path)

    def interrupt(message: str, *_: object) -> None:
        if message.startswith(stage):
            raise KeyboardInterrupt

    monkeypatch.setattr(hiif_export.export.logger, "info", interrupt)
    with pytest.raises(KeyboardInterrupt):
        export(tmp_path / "bundle", name="two", overwrite=True)
    assert contents(tmp_path) == before
    assert [path.name for path in tmp_path.iterdir()] == (["bundle"] if exists else [])


@pytest.mark.parametrize("failing", [1, 2])
def test_a_failure_while_folders_are_exchanged_keeps_the_old_bundle(
    export: Export, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failing: int
) -> None:
    export(tmp_path / "bundle")
    before, replace, calls = contents(tmp_path), Path.replace, list[Path]()

    def unreliable(path: Path, target: Path) -> Path:
        calls.append(path)
        if len(calls) == failing:
            raise OSError("no space left")
        return replace(path, target)

    monkeypatch.setattr(Path, "replace", unreliable)
    with pytest.raises(OSError, match="no space left"):
        export(tmp_path / "bundle", name="two", overwrite=True)
    assert contents(tmp_path) == before


def test_an_existing_folder_is_not_touched_without_overwrite(export: Export, tmp_path: Path) -> None:
    export(tmp_path / "bundle")
    before = contents(tmp_path)
    with pytest.raises(OptionError, match="bundle exists already; choose another folder or add --overwrite"):
        export(tmp_path / "bundle", name="two")
    assert contents(tmp_path) == before


@pytest.mark.parametrize("kind", ["folder", "empty folder", "file"])
def test_only_bundles_are_overwritten(export: Export, tmp_path: Path, kind: str) -> None:
    target = tmp_path / "precious"
    if kind == "file":
        target.write_text("work")
    else:
        target.mkdir()
    if kind == "folder":
        (target / "thesis.txt").write_text("work")
    before = contents(tmp_path)
    with pytest.raises(OptionError, match="precious is not a bundle, so it is not overwritten"):
        export(target, overwrite=True)
    assert contents(tmp_path) == before
    assert target.exists()


def test_a_bundle_is_replaced_with_overwrite(export: Export, tmp_path: Path) -> None:
    export(tmp_path / "bundle")
    (tmp_path / "bundle" / "left-over.txt").touch()
    export(tmp_path / "bundle", name="two", overwrite=True)
    assert open_bundle(tmp_path / "bundle").contract.name == "two"
    assert sorted(path.name for path in (tmp_path / "bundle").iterdir()) == FILES
    assert [path.name for path in tmp_path.iterdir()] == ["bundle"]


def deviation(features: float, colours: float, picture: str = "coffee") -> Deviation:
    return Deviation(picture, (7, 5), (14, 10), features, colours, quantile=0.0, psnr=90.0)


def test_the_worst_case_is_named() -> None:
    found = [deviation(0.0, 5e-5), deviation(3e-6, 2e-2, "chelsea"), deviation(0.0, 2e-4)]
    message = (
        "colours of chelsea (7, 5) → (14, 10) differ from PyTorch by 2.00e-02, allowed 1.0e-04; "
        "the difference arises in the decoder (features differ by 3.00e-06)"
    )
    with pytest.raises(ParityError) as caught:
        check(found)
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("colours", "accepted"), [(0.0, True), (TOLERANCE, True), (1.01 * TOLERANCE, False), (float("inf"), False)]
)
def test_the_tolerance_is_exact(colours: float, accepted: bool) -> None:
    if accepted:
        check([deviation(1.0, colours)])
    else:
        with pytest.raises(ParityError, match="already in the encoder's features"):
            check([deviation(1.0, colours)])


def test_an_output_that_is_not_a_number_deviates_without_bound(
    tiny_model: Hiif, tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Upscaler(tiny_bundle) as upscaler:
        monkeypatch.setattr(upscaler, "render_unclamped", lambda _, size: np.full((*size, 3), np.nan, np.float32))
        found = compare(tiny_model, upscaler, cases(sizes=((6, 9),), scales=(2.0,)))
    assert found[0].colours == float("inf")
    with pytest.raises(ParityError, match="in the decoder"):
        check(found)


def test_the_cases_are_every_size_at_every_scale() -> None:
    found = cases(sizes=((1, 1), (7, 5)), scales=(1.0, 2.0, (1.5, 2.75)))
    assert [(case.image.shape, case.target) for case in found] == [
        ((1, 1, 3), (1, 1)), ((1, 1, 3), (2, 2)), ((1, 1, 3), (2, 3)),
        ((7, 5, 3), (7, 5)), ((7, 5, 3), (14, 10)), ((7, 5, 3), (10, 14)),
    ]  # fmt: skip
    assert len({case.picture for case in found}) == 3


def test_the_standard_cases_hold_awkward_sizes_and_scales() -> None:
    found = {(case.image.shape[:2], case.target) for case in cases()}
    assert {((1, 1), (1, 1)), ((7, 5), (7, 5)), ((33, 2), (396, 24)), ((16, 24), (24, 66))} <= found


def test_an_ablation_becomes_a_bundle_that_agrees_with_pytorch(tmp_path: Path) -> None:
    torch.manual_seed(3)
    config = HiifConfig(
        heads=2, hidden_dim=8, mlp_dim=12, levels=3, attention_blocks=1, projections=1, hierarchy="coordinates"
    )
    model = Hiif(Edsr(EdsrConfig(blocks=1, features=6)), config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1.5)
    suite = cases(sizes=((1, 1), (6, 9)), scales=(1.0, 2.0, (1.5, 2.75)))
    found = export_bundle(model, SPEC, tmp_path / "bundle", name="ablation", provenance={}, suite=suite)
    assert max(deviation.colours for deviation in found) < 2e-5
    assert open_bundle(tmp_path / "bundle").contract.decoder.statistics_passes == 1
    names = {tensor.name for tensor in open_bundle(tmp_path / "bundle").contract.graph("decoder").inputs}
    assert {"row_local", "column_local"} <= names
    assert not names & {"row_bits", "column_bits"}


@pytest.mark.parametrize(
    ("metadata", "expected"),
    [
        ({"epoch": 5}, None),
        ({"trained_for": {"jpeg": [15, 95]}}, {"jpeg": [15, 95]}),
        ({"recipe": {"seed": 1}}, None),
        ({"recipe": {"degrade": {"noise": 0.5, "noise_sigma": [0, 25]}}}, {"noise": [0, 25]}),
    ],
)
def test_the_provenance_records_what_a_run_trained_for(metadata: Any, expected: Any, tmp_path: Path) -> None:
    (tmp_path / "model.pth").write_bytes(b"weights")
    assert file_provenance(tmp_path / "model.pth", metadata).get("trained_for") == expected


@pytest.mark.parametrize("degrade", [3, {"jpg": 0.5}, {"jpeg": 7}, {"jpeg": "often"}, {"noise_sigma": 4}])
def test_a_damaged_recipe_in_a_state_is_refused(degrade: Any, tmp_path: Path) -> None:
    (tmp_path / "state.pt").write_bytes(b"weights")
    with pytest.raises(OptionError, match=r"the checkpoint's recipe has a damaged table \[degrade\]"):
        file_provenance(tmp_path / "state.pt", {"recipe": {"degrade": degrade}})


def test_a_bundle_records_what_its_model_was_trained_for(export: Export, tmp_path: Path) -> None:
    export(tmp_path / "bundle", provenance={"trained_for": {"jpeg": [15, 95]}})
    assert open_bundle(tmp_path / "bundle").contract.trained_for == TrainedFor(jpeg=(15, 95))

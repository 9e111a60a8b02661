"""Ways of cutting the decoder's work are measured, stored and used on the same machine and bundle."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from hiif_deploy import EngineOptions, OptionError, RenderOptions, Upscaler
from hiif_deploy.bundle.loader import Bundle, open_bundle
from hiif_deploy.cli import app as cli
from hiif_deploy.cli import tune as tuning
from hiif_deploy.cli.doctor import examine
from hiif_deploy.rendering import tuned
from hiif_deploy.rendering.tuned import CallConfig, Tuning
from hiif_deploy.support.cache_dir import VARIABLE

CUT = CallConfig(query_block=300, call_threads=1)
ENGINE = EngineOptions(engine="onnxruntime", threads=2)


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(VARIABLE, str(tmp_path))
    return tmp_path / "tuning"


@pytest.fixture
def bundle(tiny_bundle: Path) -> Bundle:
    return open_bundle(tiny_bundle)


def tuning_of(call: CallConfig = CUT) -> Tuning:
    return Tuning("tiny", "ONNX Runtime, cpu, fp32", "a processor, 2 threads", call, {"300 x 1": 1.0})


def test_the_fastest_of_all_cuts_is_found_and_every_one_is_reported(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tuning, "SOURCE", 20)
    candidates, told = [CallConfig(1, 1), CallConfig(4096, 1), CallConfig(4096, 2)], []
    found = tuning.measure(bundle, ENGINE, candidates, 1, told.append)
    # A call for every single query is slower by so much that no noise hides it.
    assert found.call != candidates[0]
    assert set(found.seconds) == {"1 x 1", "4096 x 1", "4096 x 2"}
    assert len(told) == 6


def test_what_is_stored_is_used(bundle: Bundle) -> None:
    tuned.store(bundle, ENGINE, tuning_of())
    with Upscaler(bundle, engine=ENGINE) as upscaler:
        assert upscaler.plan((10, 10)).query_block == 300
        assert upscaler.engine.call_threads == 1


def test_what_the_caller_says_goes_first(bundle: Bundle) -> None:
    tuned.store(bundle, ENGINE, tuning_of())
    options = RenderOptions(query_block=7)
    with Upscaler(
        bundle, engine=EngineOptions(engine="onnxruntime", threads=2, call_threads=2), options=options
    ) as upscaler:
        assert upscaler.plan((10, 10)).query_block == 7
        assert upscaler.engine.call_threads == 2


@pytest.mark.parametrize(
    "other",
    [
        EngineOptions(engine="onnxruntime", threads=1),
        EngineOptions(engine="openvino", threads=2),
        EngineOptions(engine="onnxruntime", provider="cuda", threads=2),
        EngineOptions(engine="onnxruntime", provider="coreml", threads=2),
    ],
)
def test_another_engine_provider_or_number_of_threads_is_another_tuning(bundle: Bundle, other: EngineOptions) -> None:
    tuned.store(bundle, ENGINE, tuning_of())
    assert tuned.find(bundle, other) is None
    assert tuned.find(bundle, ENGINE) == CUT


@pytest.mark.parametrize("text", ["", "{}", "[1]", '{"call": {"query_block": 0, "call_threads": 1}}'])
def test_a_damaged_file_is_reported_and_not_used(bundle: Bundle, text: str, caplog: pytest.LogCaptureFixture) -> None:
    tuned.store(bundle, ENGINE, tuning_of()).write_text(text, encoding="utf-8")
    assert tuned.find(bundle, ENGINE) is None
    assert "hiif-deploy tune writes it anew" in caplog.text
    assert tuned.stored() == []


def test_engines_of_a_gpu_have_nothing_to_tune(bundle: Bundle) -> None:
    with pytest.raises(OptionError, match="nothing to tune"):
        tuning.measure(bundle, EngineOptions(engine="onnxruntime", provider="cuda"), [CUT], 1, lambda _: None)


def test_the_command_stores_what_doctor_shows(
    tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert any(finding.name == "tuning" and finding.status == "absent" for finding in examine())
    monkeypatch.setattr(tuning, "BLOCKS", (64, 256))
    with pytest.raises(SystemExit) as stop:
        cli.main(["tune", str(tiny_bundle), "--rounds", "1", "--threads", "1", "--json", "-q"])
    assert not stop.value.code
    found = json.loads(capsys.readouterr().out)
    assert found["call"]["query_block"] in (64, 256)
    assert Path(found["file"]).is_file()
    assert any(finding.name.startswith("tuning ") and finding.status == "ok" for finding in examine())

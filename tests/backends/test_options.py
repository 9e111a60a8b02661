"""How much of the machine is used."""

from __future__ import annotations

from pathlib import Path

import pytest

from hiif_deploy import EngineOptions, OptionError
from hiif_deploy.backends.engines import Engine
from hiif_deploy.backends.options import usable_cores


@pytest.mark.parametrize(
    ("quota", "most"), [("100000 100000", 1), ("50000 100000", 1), ("0 0", None), ("max 100000", None)]
)
def test_a_containers_quota_limits_the_cores(tmp_path: Path, quota: str, most: int | None) -> None:
    (tmp_path / "cpu.max").write_text(quota)
    without = usable_cores(tmp_path / "absent")
    assert without >= 1
    assert usable_cores(tmp_path / "cpu.max") == (without if most is None else most)


def test_no_number_of_threads_takes_all_usable_cores() -> None:
    assert EngineOptions().thread_count == usable_cores()
    assert EngineOptions(threads=3).thread_count == 3


def test_a_negative_number_of_threads_is_refused() -> None:
    with pytest.raises(OptionError, match="threads is -1"):
        EngineOptions(threads=-1)


@pytest.mark.parametrize("engine", ["openvino", "native", "auto"])
def test_a_provider_that_an_engine_does_not_read_is_refused(engine: Engine) -> None:
    with pytest.raises(OptionError, match=f"provider is cuda: engine {engine} does not read it; name engine onnxr"):
        EngineOptions(engine=engine, provider="cuda", threads=1)

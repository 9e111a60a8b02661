"""The paper's tables: complete, and found by encoder, set and scale."""

from __future__ import annotations

import math

import pytest

from hiif_training.evaluation.paper import figure, paper_row, tables


def spec(encoder: str) -> dict[str, object]:
    return {"name": "hiif", "args": {"encoder_spec": {"name": encoder}}}


def test_every_row_has_a_figure_for_every_scale() -> None:
    scales = tables()["scales"]
    assert len(tables()["psnr"]) == 47
    for row in tables()["psnr"]:
        sets = [name for name in row if name in scales]
        assert sets
        assert all(len(row[name]) == len(scales[name]) for name in sets)
    assert [len(row["Urban100"]) for row in tables()["ablation"]] == [6] * 5
    assert len(tables()["cost"]) == 10


def test_no_method_is_better_at_a_larger_scale() -> None:
    for row in tables()["psnr"]:
        for name in (name for name in row if name in tables()["scales"]):
            known = [value for value in row[name] if not math.isnan(value)]
            assert known == sorted(known, reverse=True)


@pytest.mark.parametrize(
    ("encoder", "name", "scale", "expected"),
    [
        ("edsr-baseline", "Set5", 2, ("HIIF, EDSR-baseline", 38.11)),
        ("edsr-mini", "set5", 4, ("HIIF, EDSR-baseline", 32.42)),
        ("rdn", "B100", 3, ("HIIF, RDN", 29.42)),
        ("swinir", "DIV2K_valid_HR", 30, ("HIIF, SwinIR", 20.73)),
        ("edsr-baseline", "Set5", 2.5, None),
        ("edsr-baseline", "holidays", 2, None),
    ],
)
def test_a_model_is_put_beside_hiif_with_its_encoder(
    encoder: str, name: str, scale: float, expected: tuple[str, float] | None
) -> None:
    assert paper_row(spec(encoder), name, scale) == expected


def test_bicubic_is_put_beside_bicubic() -> None:
    assert paper_row({}, "DIV2K", 2) == ("Bicubic", 31.01)


def test_a_dash_is_no_figure() -> None:
    assert figure("RDN", "CLIT", "Set14", 12) is None
    assert figure("RDN", "CLIT", "Set14", 8) == 25.36


def test_the_ablations_are_all_worse_than_the_whole() -> None:
    rows = {row["method"]: row["Urban100"] for row in tables()["ablation"]}
    whole = rows["HIIF"]
    assert all(rows[name][n] < whole[n] for name in ("v1-H", "v2-MS", "v3-MH") for n in range(6))

"""The sheet shows the part where bicubic errs most, three times."""

from __future__ import annotations

import numpy as np

from hiif_training.evaluation.sheet import GAP, HEAD, MAX_ROWS, SIDE, ZOOM, draw_sheet, sheet_row, worst_part
from hiif_training.pictures.picture_sets import Pair
from hiif_training.pictures.resize import shrink


def detailed_corner() -> Pair:
    """200×160 pixels of grey, with noise in the lower right quarter."""
    truth = np.full((200, 160, 3), 128, dtype=np.uint8)
    truth[120:, 90:] = np.random.default_rng(1).integers(0, 256, (80, 70, 3))
    return Pair("corner", shrink(truth, (100, 80), "pil"), truth, "pil")


def test_the_part_with_the_largest_error_is_shown() -> None:
    pair = detailed_corner()
    top, left, side = worst_part(np.full_like(pair.truth, 128), pair.truth)
    assert side == SIDE
    assert (top, left) == (96, 48)


def test_a_picture_smaller_than_a_panel_is_shown_whole_in_its_shorter_side() -> None:
    truth = np.zeros((30, 50, 3), dtype=np.uint8)
    assert worst_part(truth, truth)[2] == 30


def test_a_row_has_truth_bicubic_and_answer_of_the_same_part() -> None:
    pair = detailed_corner()
    row = sheet_row(pair, (pair.truth / 255).astype(np.float32), 2)
    truth, bicubic, answer = row.panels
    assert row.title == "corner x2"
    assert truth.shape == bicubic.shape == answer.shape == (SIDE, SIDE, 3)
    assert np.array_equal(truth, answer)
    assert not np.array_equal(truth, bicubic)


def test_a_sheet_holds_the_first_rows() -> None:
    pair = detailed_corner()
    row = sheet_row(pair, (pair.truth / 255).astype(np.float32), 2)
    panel = SIDE * ZOOM
    for count, shown in ((1, 1), (20, MAX_ROWS)):
        sheet = draw_sheet([row] * count, "mine")
        assert sheet.shape == (HEAD + shown * (panel + HEAD), 3 * panel + 4 * GAP, 3)
    assert np.array_equal(sheet[HEAD : HEAD + panel : ZOOM, GAP : GAP + panel : ZOOM], row.panels[0])

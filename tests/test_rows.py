"""Tables of cases as one test."""

from __future__ import annotations

import pytest

from rows import every


def test_a_failure_names_its_row_and_the_rows_before_it_ran() -> None:
    seen = []

    @every("number, word", [(1, "a"), (2, "b"), (3, "c")])
    def check(number: int, word: str) -> None:
        seen.append(word)
        assert number < 2

    with pytest.raises(AssertionError) as caught:
        check()
    assert caught.value.__notes__ == ["in the row number, word = (2, 'b')"]
    assert seen == ["a", "b"]


@every("value", [1, 2])
def test_fixtures_are_still_given(value: int, tmp_path: object) -> None:
    assert tmp_path
    assert value


def test_a_table_without_rows_is_refused() -> None:
    with pytest.raises(AssertionError, match="proves nothing"):
        every("value", [])

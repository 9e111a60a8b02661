"""Instruction sets and precisions that tests of native code run in."""

from __future__ import annotations

import pytest

from hiif_engines.native.target import TARGETS

PAIRS = [(target.name, precision) for target in TARGETS.values() for precision in target.precisions]
"""Names of all targets with each of their precisions."""
every_precision = pytest.mark.parametrize(("target", "precision"), PAIRS, indirect=["target"])
"""Runs a test with the fixture `target` and the argument `precision` for each of them."""
own_precisions = pytest.mark.parametrize(("own_target", "precision"), PAIRS, indirect=["own_target"])
"""The same with the fixture `own_target`."""

"""Instruction sets and precisions that tests of native code run in."""

from __future__ import annotations

import dataclasses

import pytest

from hiif_engines.native.target import TARGETS

PAIRS = [(target.name, precision) for target in TARGETS.values() for precision in target.precisions]
"""Names of all targets with each of their precisions."""
EVEX = dataclasses.replace(TARGETS["avx2"], precisions={"int8": frozenset({"avx512vnni", "avx512vl"})}, unused=())
"""AVX2's kernels with AVX-512's encoding of int8 products, which is the same arithmetic: for processors that lack
AVX-VNNI's encoding."""
every_precision = pytest.mark.parametrize(("target", "precision"), PAIRS, indirect=["target"])
"""Runs a test with the fixture `target` and the argument `precision` for each of them."""
own_precisions = pytest.mark.parametrize(("own_target", "precision"), PAIRS, indirect=["own_target"])
"""The same with the fixture `own_target`."""

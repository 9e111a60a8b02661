"""The decoder in stages against its reference twin, with everything carried, a part, and nothing."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from hiif_deploy import RenderOptions, Upscaler
from hiif_deploy.bundle.contract import expected_stages
from hiif_deploy.bundle.loader import Bundle, open_bundle
from hiif_deploy.decoding.state_cache import StateCache
from hiif_deploy.errors import BundleError
from hiif_deploy.images.samples import sample


def without_stages(bundle: Bundle) -> Bundle:
    stages = expected_stages(bundle.contract.decoder.statistics_passes)
    graphs = tuple(graph for graph in bundle.contract.graphs if graph.name not in stages)
    return dataclasses.replace(bundle, contract=dataclasses.replace(bundle.contract, graphs=graphs))


@pytest.mark.parametrize("memory", [2 << 20, 4 << 20, 1 << 30])
def test_stages_have_the_outputs_of_whole_graphs(tiny_bundle: Path, memory: int) -> None:
    bundle = open_bundle(tiny_bundle)
    assert bundle.contract.stages
    image = sample("astronaut")[:33, :26]
    options = RenderOptions(memory=memory, query_block=100)
    with Upscaler(without_stages(bundle)) as whole, Upscaler(bundle, options=options) as staged:
        expected = whole.render_unclamped(whole.encode(image), size=(99, 91))
        answer = staged.render_unclamped(staged.encode(image), size=(99, 91))
    assert np.abs(answer - expected).max() <= 1e-5


def test_a_bundle_with_some_stages_is_refused(tiny_bundle: Path) -> None:
    contract = open_bundle(tiny_bundle).contract
    graphs = tuple(graph for graph in contract.graphs if graph.name != "tail")
    with pytest.raises(BundleError, match="stages"):
        dataclasses.replace(contract, graphs=graphs)


def test_a_carry_keeps_what_fits_and_forgets_what_is_taken() -> None:
    carry = StateCache(100)
    state = np.zeros(20, np.float32)
    carry.put((1,), 0, state)
    carry.put((2,), 0, state)
    assert carry.take((2,)) is None
    found = carry.take((1,))
    assert found is not None
    assert found[0] == 0
    assert found[1] is state
    assert carry.take((1,)) is None
    carry.put((2,), 1, state)
    assert carry.take((2,)) is not None


def test_a_later_state_takes_the_place_of_the_earlier_one() -> None:
    carry = StateCache(100)
    carry.put((1,), 0, np.zeros(20, np.float32))
    carry.put((1,), 1, np.ones(20, np.float32))
    found = carry.take((1,))
    assert found is not None
    assert found[0] == 1

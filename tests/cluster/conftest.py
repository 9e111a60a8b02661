"""Two workers on a Ray cluster of this machine, started once for the tests of a file.

Not for longer: Ray ends a process without a word when a busy machine answers the cluster's heartbeat too late.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from typing import Any

import pytest


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """Ray, joined: a cluster of two nodes with one processor each."""
    ray = pytest.importorskip("ray", reason="needs Ray")
    from ray.cluster_utils import Cluster

    with warnings.catch_warnings():
        # Ray's own notice about GPU variables, which concerns none of its callers here.
        warnings.filterwarnings("ignore", category=FutureWarning, module="ray.*")
        nodes = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
        nodes.add_node(num_cpus=1)
        ray.init(address=nodes.address, log_to_driver=False, logging_level="ERROR")
        yield ray
        ray.shutdown()
        nodes.shutdown()

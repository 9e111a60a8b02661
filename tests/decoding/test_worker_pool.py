"""Work for threads that have ended is refused with a reason."""

from __future__ import annotations

import pytest

from hiif_deploy.decoding.worker_pool import WorkerPool
from hiif_deploy.errors import EngineError


def test_a_closed_pool_says_that_its_upscaler_was_closed() -> None:
    pool = WorkerPool(2)
    assert pool.submit(max, 3, 5).result() == 5
    pool.shutdown()
    with pytest.raises(EngineError, match="closed while it was used; open another one"):
        pool.submit(max, 3, 5)

"""Threads of an upscaler that say so where they have ended."""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import ParamSpec, TypeVar

from hiif_deploy.errors import EngineError

P = ParamSpec("P")
T = TypeVar("T")


class WorkerPool(ThreadPoolExecutor):
    """A pool whose `submit` raises EngineError once the upscaler was closed, which another thread may do meanwhile."""

    is_closed = False

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """See `ThreadPoolExecutor`."""
        try:
            return super().submit(fn, *args, **kwargs)
        except RuntimeError as error:
            if not self.is_closed:
                raise
            raise EngineError("this upscaler was closed while it was used; open another one") from error

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """See `ThreadPoolExecutor`."""
        self.is_closed = True
        super().shutdown(wait, cancel_futures=cancel_futures)

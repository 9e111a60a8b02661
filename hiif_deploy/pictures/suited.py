"""Chooses the model of each picture: the default one, or for compressed and noisy pictures the one trained on such."""

from types import TracebackType
from typing import Self

from hiif_deploy.bundle.loader import PHOTO_MODEL
from hiif_deploy.errors import HiifError
from hiif_deploy.images.degradation import Degradation
from hiif_deploy.pictures.suitability import untrained
from hiif_deploy.upscaler import Upscaler

COARSE_JPEG = 85
"""JPEG quality below which the second model is better. Measured with hiif-photo and hiif-compact at ×2 on six pictures
of gb82: 34.27 and 33.84 dB at quality 75, 34.66 and 34.40 at 80, 35.10 and 35.09 at 85, 35.61 and 36.02 at 90."""


class SuitedModels:
    """A context manager around an open model; the second one is opened when a picture first needs it."""

    def __init__(self, default: Upscaler, other: str = PHOTO_MODEL) -> None:
        self._default = default
        self._name = other
        self._other: Upscaler | None = None
        self.failure: HiifError | None = None
        """The reason why the second model could not be opened, so that all pictures have the default one."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Close the second model, where it was opened; the first one is the caller's."""
        if self._other is not None:
            self._other.close()

    def choose(self, found: Degradation) -> Upscaler:
        """Return the model for a picture with the given degradations."""
        left = untrained(found, self._default.contract.trained_for)
        is_better = left is not None and (left.noise is not None or (left.jpeg or 0) < COARSE_JPEG)
        if not is_better or self.failure is not None:
            return self._default
        if self._other is None:
            try:
                self._other = Upscaler(self._name, engine=self._default.engine, options=self._default.options)
            except HiifError as error:
                self.failure = error
                return self._default
        return self._other

"""Chooses the model of each picture: the default one, or for compressed and noisy pictures the one trained on such."""

from types import TracebackType
from typing import Self

from hiif_deploy.bundle.loader import PHOTO_MODEL
from hiif_deploy.errors import HiifError
from hiif_deploy.images.degradation import Degradation
from hiif_deploy.pictures.suitability import untrained
from hiif_deploy.upscaler import Upscaler


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
        if untrained(found, self._default.contract.trained_for) is None or self.failure is not None:
            return self._default
        if self._other is None:
            try:
                self._other = Upscaler(self._name, engine=self._default.engine, options=self._default.options)
            except HiifError as error:
                self.failure = error
                return self._default
        return self._other

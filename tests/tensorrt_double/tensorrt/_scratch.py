"""How much scratch memory the double pretends to need."""

from __future__ import annotations

import math
from collections.abc import Mapping

ALIGNMENT = 256
"""Of every address that TensorRT is given."""


def scratch_size(inputs: Mapping[str, tuple[int, ...]]) -> int:
    """Bytes, growing with the inputs' sizes, a multiple of the alignment."""
    values = sum(math.prod(shape) for shape in inputs.values())
    return -(-(values + 1) // ALIGNMENT) * ALIGNMENT

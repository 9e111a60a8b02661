"""HIIF's decoder split between statistics passes, so that a pass reuses the state that the one before it computed.

The parts in order: `First` (maps and geometry → state 0), `key_value` (state n → sums of attention block n), `Mix`
(state n → state n + 1), `Tail` (last state → colours). Together they equal `hiif_modules.HiifDecoder`, with every
weight once.
"""

from typing import cast

from torch import Tensor, nn

from hiif_export.decoders.hiif_modules import Attention, FirstLevel, KeyValue, LaterLevel, second_layer
from hiif_training.models.hiif import Hiif, Level


class StageModule(nn.Module):
    """Layers of one part: level 0's second layer, an attention block, later levels; each may be absent."""

    def __init__(self, second: nn.Linear | None, attention: Attention | None, levels: list[LaterLevel]) -> None:
        super().__init__()
        self.second, self.attention = second, attention
        self.levels = nn.ModuleList(levels)


class Mix(StageModule):
    """Applies attention block n; before the first one, level 0's second layer."""

    def __init__(self, model: Hiif, n: int) -> None:
        second = second_layer(cast(Level, model.fc_layers[0])) if n == 0 else None
        super().__init__(second, Attention(model.attention[n]), [])

    def forward(self, state: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        """State [N, M or width], folded matrix [width, width] and bias [width] → next state [N, width]."""
        x = state if self.second is None else self.second(state)
        assert self.attention is not None
        y: Tensor = self.attention(x, weight, bias)
        return y


class Tail(StageModule):
    """Applies the last attention block and all later levels."""

    def __init__(self, model: Hiif) -> None:
        blocks = model.config.attention_blocks
        second = second_layer(cast(Level, model.fc_layers[0])) if blocks <= 1 else None
        attention = Attention(model.attention[blocks - 1]) if blocks else None
        super().__init__(second, attention, [LaterLevel(model, n) for n in range(1, model.config.levels)])

    def forward(self, state: Tensor, row_position: Tensor, column_position: Tensor, *folded: Tensor) -> Tensor:
        """State [N, M or width] and positions of R × W = N queries → colours [N, 3]."""
        x = state if self.second is None else self.second(state)
        if self.attention is not None:
            x = self.attention(x, *folded)
        for level in self.levels:
            x = level(x, [row_position, column_position])
        return x


class First(nn.Module):
    """Level 0 up to its GELU, as a graph of its own."""

    def __init__(self, model: Hiif) -> None:
        super().__init__()
        self.first = FirstLevel(model)

    def forward(
        self, map_0: Tensor, map_1: Tensor, map_2: Tensor, map_3: Tensor, moments: Tensor,
        row_tap: Tensor, column_tap: Tensor, row_distance: Tensor, column_distance: Tensor,
        row_position: Tensor, column_position: Tensor, cell: Tensor,
    ) -> Tensor:  # fmt: skip
        """Maps [P, M], moments [P, 2] and axis tables → state 0 [R·W, M] of R × W queries, row-major."""
        state: Tensor = self.first(
            [map_0, map_1, map_2, map_3], moments, [row_tap, column_tap],
            [row_distance, column_distance], [row_position, column_position], cell,
        )  # fmt: skip
        return state


def key_value(model: Hiif, n: int) -> KeyValue:
    """Return the module that sums attention block n from state n."""
    before = cast(Level, model.fc_layers[0]).fc2 if n == 0 else None
    return KeyValue(model.attention[n], before)

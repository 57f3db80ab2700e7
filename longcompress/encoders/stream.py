"""An encoder fed bit by bit: blocks, then means over their ends where it wants them."""

from typing import Any

from ..types import Audio, Encoded, Frames
from .blocks import Blocks
from .encoder import Encoder


class Stream:
    """What one encoder makes of what arrives; it doesn't depend on how that was cut.

    Args:
        encoder: what encodes.
    """

    def __init__(self, encoder: Encoder) -> None:
        self.encoder = encoder
        self._blocks = Blocks(encoder.encode, encoder.block, encoder.look)
        self._means = encoder.means and encoder.means.copy()

    def copy(self) -> "Stream":
        """An independent copy; tensors are shared, for nothing here writes into them."""
        made = Stream(self.encoder)
        made._blocks = self._blocks.copy()
        made._means = self._means and self._means.copy()
        return made

    def state(self) -> dict[str, Any]:
        """All but the encoder, for `set_state`."""
        means = {} if self._means is None else {"means": self._means.state()}
        return self._blocks.state() | means

    def set_state(self, state: dict[str, Any]) -> None:
        """Go on from what `state` gave."""
        self._blocks.set_state(state)
        if self._means is not None:
            self._means.set_state(state["means"])

    @property
    def num_pending(self) -> int:
        """Frames or samples that wait for their block to be encoded."""
        return self._blocks.num_pending

    def push(self, part: Frames | Audio) -> list[Encoded]:
        """What is encoded now; `part` follows what was pushed before."""
        return self._averaged(self._blocks.push(part))

    def flush(self) -> list[Encoded]:
        """What waits, encoded as if nothing followed."""
        out = self._averaged(self._blocks.flush())
        return out if self._means is None else out + self._means.flush()

    def _averaged(self, encoded: list[Encoded]) -> list[Encoded]:
        if self._means is None:
            return encoded
        return [mean for part in encoded for mean in self._means.push(part)]

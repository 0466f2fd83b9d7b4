"""Lists of (query, reference) pairs."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass
class Pairs:
    """Pairs with a value each.

    Attributes:
        query: ``(p,)`` int64, rows of the block.
        reference: ``(p,)`` int64.
        value: ``(p,)`` float32, the screen's value (see ``screening.Screen``).
    """

    query: Tensor
    reference: Tensor
    value: Tensor

    def __len__(self) -> int:
        return len(self.query)

    def __getitem__(self, which: Tensor) -> Pairs:
        """Pairs at the given positions."""
        return Pairs(*(part.index_select(0, which) for part in (self.query, self.reference, self.value)))

    @staticmethod
    def join(pairs: list[Pairs]) -> Pairs:
        """One list of several, at least one."""
        if len(pairs) == 1:
            return pairs[0]
        return Pairs(
            torch.cat([part.query for part in pairs]),
            torch.cat([part.reference for part in pairs]),
            torch.cat([part.value for part in pairs]),
        )


def flat_nonzero(mask: Tensor) -> Tensor:
    """Positions of the true elements of the flattened mask, ``(p,)`` int64."""
    if mask.device.type == "cpu":  # numpy skips runs of zeros; torch looks at every element, ten times slower
        return torch.from_numpy(mask.numpy().reshape(-1).nonzero()[0])
    return mask.flatten().nonzero()[:, 0]

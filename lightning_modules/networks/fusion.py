"""Several representations of one image, a branch for each, one answer."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from lightning_modules.networks.source_network import SourceNetwork, VectorHead


class FusionNetwork(nn.Module):
    """Branches that each see one representation, trained together.

    Args:
        branches: Network of each representation, in the order of the inputs.
        seed: Of the random initialisation; the global random state is left as it was.
    """

    def __init__(self, branches: Mapping[str, SourceNetwork | VectorHead], num_classes: int, seed: int = 0) -> None:
        super().__init__()
        self.branches = nn.ModuleDict(dict(branches))
        self.num_features = sum(branch.num_features for branch in branches.values())

    def set_input_statistics(self, *statistics: tuple[Tensor, Tensor]) -> None:
        """Standardise the input of every branch, in their order."""
        for branch, found in zip(self.branches.values(), statistics, strict=True):
            branch.set_input_statistics(found)  # type: ignore[operator]

    def forward(self, *inputs: Tensor) -> tuple[Tensor, Tensor]:
        """Logits (N, K) and features (N, d) of one input for each branch."""
        outputs = [branch(seen) for branch, seen in zip(self.branches.values(), inputs, strict=True)]
        logits = torch.stack([logits for logits, _ in outputs]).sum(dim=0)
        return logits, torch.cat([features for _, features in outputs], dim=1)

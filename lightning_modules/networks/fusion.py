"""Several representations of one image, a branch for each, one answer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.special import log_softmax
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from lightning_modules.networks.source_network import SourceNetwork, VectorHead

Branch = SourceNetwork | VectorHead
_TOGETHER = 1.0  # how much speaks for weighing all branches alike, in units of one image's log likelihood
_BOUNDS = (-7.0, 7.0)  # of the logarithm of a weight


class FusionNetwork(nn.Module):
    """Branches that each see one representation, trained in the same steps, and answer together.

    The answer is a product of experts: probabilities proportional to ``prod_b p_b^{w_b}``, with a weight for each
    branch. Every branch learns from its own cross-entropy: under a single loss of the sum, the branch that fits the
    training images first leaves nothing to learn for the others. The weights, which also set the temperature, are
    fitted on validation images (`fit_weights`); before that they are all 1.

    Args:
        branches: Network of each representation, in the order of the inputs.
    """

    def __init__(self, branches: Mapping[str, Branch]) -> None:
        super().__init__()
        self.branches = nn.ModuleDict(dict(branches))
        self.sizes = [branch.num_features for branch in branches.values()]
        self.num_features = sum(self.sizes)
        self.weights: Tensor
        self.register_buffer("weights", torch.ones(len(branches)))

    @property
    def names(self) -> list[str]:
        """Of the branches, in their order."""
        return list(self.branches)

    def set_input_statistics(self, *statistics: tuple[Tensor, Tensor]) -> None:
        """Standardise the input of every branch, in their order."""
        for branch, found in zip(self.branches.values(), statistics, strict=True):
            branch.set_input_statistics(found)  # type: ignore[operator]

    def forward(self, *inputs: Tensor) -> tuple[Tensor, Tensor]:
        """Logits (N, K) and features (N, d), those of the branches side by side, of one input for each branch."""
        features = [branch(seen)[1] for branch, seen in zip(self.branches.values(), inputs, strict=True)]
        together = torch.cat(features, dim=1)
        return self.together(self.alone(together)), together

    def _own_logits(self, features: Tensor) -> Tensor:
        parts = torch.split(features, self.sizes, dim=1)
        logits = [branch.classify(part) for branch, part in zip(self.branches.values(), parts, strict=True)]  # type: ignore[operator]
        return torch.stack(logits)

    def classify(self, features: Tensor) -> Tensor:
        """Sum (N, K) of the branches' own logits, not normalised and not weighed, of features (N, d)."""
        return self._own_logits(features).sum(dim=0)

    def alone(self, features: Tensor) -> Tensor:
        """Log probabilities (B, N, K) of each branch alone, of features (N, d)."""
        return self._own_logits(features).log_softmax(dim=2)

    def together(self, alone: Tensor, without: int | None = None) -> Tensor:
        """Logits (N, K) of the product of experts; without one of them, if that is asked for."""
        weights = self.weights.clone()
        if without is not None:
            weights[without] = 0.0
        return (weights[:, None, None].to(alone) * alone).sum(dim=0)

    def ablated(self, features: Tensor) -> Tensor:
        """Logits (2B, N, K) of each branch alone, then of all but each branch."""
        alone = self.alone(features)
        return torch.cat([alone, torch.stack([self.together(alone, place) for place in range(len(alone))])])

    def losses(self, features: Tensor, labels: Tensor, label_smoothing: Sequence[float]) -> Tensor:
        """Sum of the branches' cross-entropies."""
        pairs = zip(self.alone(features), label_smoothing, strict=True)
        return torch.stack([cross_entropy(each, labels, label_smoothing=smooth) for each, smooth in pairs]).sum()

    def fit_weights(self, alone: Tensor, labels: Tensor) -> None:
        """Set the weights to those of the greatest likelihood of images that no branch was trained on.

        Args:
            alone: Log probabilities (B, N, K) of the branches.
            labels: (N,) of the images.
        """
        logs, truth = alone.double().cpu().numpy(), labels.cpu().numpy()
        one_hot = np.eye(logs.shape[2])[truth]

        def loss_and_gradient(weight_logs: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
            weights, apart = np.exp(weight_logs), weight_logs - weight_logs.mean()
            fused = log_softmax(np.tensordot(weights, logs, axes=1), axis=1)
            slope = np.tensordot(logs, np.exp(fused) - one_hot, axes=2)
            loss = -(fused * one_hot).sum() + _TOGETHER * np.square(apart).sum()
            return float(loss), weights * slope + 2 * _TOGETHER * apart

        found = minimize(
            loss_and_gradient, np.zeros(len(logs)), jac=True, method="L-BFGS-B", bounds=[_BOUNDS] * len(logs)
        )
        self.weights.copy_(torch.from_numpy(np.exp(found.x)))

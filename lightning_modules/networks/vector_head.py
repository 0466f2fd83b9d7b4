"""A classifier for vectors: features that a pretrained network, or a formula, has computed already."""

from __future__ import annotations

import torch
from torch import Tensor, nn

VECTOR_HEADS = ("linear", "mlp")
_HIDDEN = 256


class VectorHead(nn.Module):
    """Vectors to logits over sources: a linear layer, or one hidden layer of 256 units.

    Its input is standardised with the mean and deviation of the training vectors (``set_input_statistics``).

    Args:
        name: One of ``VECTOR_HEADS``.
        dimensions: Length d of a vector.
        num_classes: Number of sources K.
        seed: Of the random initialisation; the global random state is left as it was.
    """

    def __init__(self, name: str, dimensions: int, num_classes: int, seed: int = 0) -> None:
        super().__init__()
        self.input_mean: Tensor
        self.input_std: Tensor
        self.register_buffer("input_mean", torch.zeros(dimensions))
        self.register_buffer("input_std", torch.ones(dimensions))
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.num_features = dimensions if name == "linear" else _HIDDEN
            self.hidden: nn.Module = nn.Identity()
            if name == "mlp":
                self.hidden = nn.Sequential(nn.Linear(dimensions, _HIDDEN), nn.ReLU())
            self.classifier = nn.Linear(self.num_features, num_classes)

    def set_input_statistics(self, mean: Tensor, std: Tensor) -> None:
        """Standardise the input from now on, (d,) each; a constant coordinate is left unscaled."""
        self.input_mean.copy_(mean)
        self.input_std.copy_(torch.where(std > 0, std, torch.ones_like(std)))

    def forward(self, vectors: Tensor) -> tuple[Tensor, Tensor]:
        """Logits (N, K) and features (N, 256), or (N, d) of a linear head, of vectors (N, d)."""
        features: Tensor = self.hidden((vectors - self.input_mean) / self.input_std)
        logits: Tensor = self.classifier(features)
        return logits, features

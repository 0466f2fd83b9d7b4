"""Where the features of trained sources lie: whitened by their shared covariance, and how far an image is from them.

Sources: Sun et al., "Out-of-distribution detection with deep nearest neighbors", ICML 2022 (distance to the k-th
neighbour among features of unit length); Lee et al., "A simple unified framework for detecting out-of-distribution
samples", NeurIPS 2018 (the covariance that classes share); Ledoit and Wolf, "A well-conditioned estimator for
large-dimensional covariance matrices", Journal of Multivariate Analysis 2004.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch
from threadpoolctl import threadpool_limits
from torch import Tensor
from torch.nn.functional import normalize

MOST_DIMENSIONS = 256
"""Longer features are projected to as many principal axes first, so that what travels stays small."""
BANK, NEIGHBOUR = 2048, 10
"""Training features that are kept, evenly chosen, and which neighbour the distance is to."""


@dataclass(frozen=True)
class FeatureSpace:
    """Features (N, d) whitened by the covariance that the trained sources share, (N, r).

    Attributes:
        mean: (d,) of all training features.
        whitening: (d, r); (features - mean) @ whitening has unit covariance within each source.
        bank: (B, r) training features, whitened and of unit length.
    """

    mean: Tensor
    whitening: Tensor
    bank: Tensor

    @classmethod
    def fit(cls, features: Tensor, labels: Tensor) -> FeatureSpace:
        """Of training features (N, d) and labels (N,), in double precision, the same on every process."""
        from sklearn.covariance import LedoitWolf  # takes a second, which commands that only answer do not pay

        values = features.double().cpu().numpy()
        truth = np.unique(labels.cpu().numpy(), return_inverse=True)[1]
        with threadpool_limits(1):
            mean = values.mean(axis=0)
            centred = values - mean
            axes = np.eye(values.shape[1])
            if values.shape[1] > MOST_DIMENSIONS:
                _, vectors = np.linalg.eigh(centred.T @ centred / len(centred))
                axes = vectors[:, ::-1][:, :MOST_DIMENSIONS]
            projected = centred @ axes
            means = np.stack([projected[truth == label].mean(axis=0) for label in range(truth.max() + 1)])
            shared = LedoitWolf(assume_centered=True).fit(projected - means[truth]).covariance_
            variances, vectors = np.linalg.eigh(shared)
            floor = max(float(variances[-1]), 1e-12) * 1e-9  # a coordinate that never moves
            whitening = axes @ (vectors / np.sqrt(np.maximum(variances, floor)))
            kept = np.unique(np.linspace(0, len(values) - 1, min(BANK, len(values))).round().astype(int))
            bank = centred[kept] @ whitening
        found = cls(*(torch.from_numpy(np.ascontiguousarray(part)).float() for part in (mean, whitening, bank)))
        return replace(found, bank=normalize(found.bank).half())

    def whitened(self, features: Tensor) -> Tensor:
        """(N, r) of features (N, d)."""
        return (features.float() - self.mean.to(features.device)) @ self.whitening.to(features.device)

    def unit(self, features: Tensor) -> Tensor:
        """(N, r) of unit length: what galleries hold."""
        return normalize(self.whitened(features))

    def distance(self, features: Tensor) -> Tensor:
        """Distance (N,) float64 to the k-th nearest training feature, both of unit length: between 0 and 2."""
        bank = self.bank.to(features.device).double()
        found = torch.cdist(self.unit(features).double(), bank)
        return found.kthvalue(min(NEIGHBOUR, len(bank)), dim=1).values

    def to_checkpoint(self) -> dict[str, Tensor]:
        """The tensors by name."""
        return dict(vars(self))

    @classmethod
    def load(cls, saved: Mapping[str, Tensor]) -> FeatureSpace:
        """The inverse of `to_checkpoint`."""
        return cls(**{name: saved[name] for name in ("mean", "whitening", "bank")})

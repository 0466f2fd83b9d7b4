r"""Frechet (2-Wasserstein) distance between Gaussians, exactly and from factors shared between pairs.

For N(m1, S1) and N(m2, S2) (Dowson and Landau, "The Frechet distance between multivariate normal distributions", J.
Multivariate Analysis 1982):

    FD = |m1 - m2|^2 + tr S1 + tr S2 - 2 tr (S1 S2)^(1/2)

With any factors S1 = A^T A and S2 = B^T B the last trace is the nuclear norm of the small matrix A B^T: the non-zero
eigenvalues of A^T A B^T B are those of (A B^T)(A B^T)^T. So no matrix square root and no non-symmetric eigenvalue
problem is needed, the covariance's condition is never squared, and singular covariances (fewer samples than
dimensions) are as exact as any other. Each sample of K classes is factorised once for all its pairs: n < d samples
are their own factor (centred rows), n >= d samples give the triangle of a QR decomposition.

All in float64. What is called FD here is the squared distance, as in FID.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class GaussianFactor:
    """A Gaussian as mean and factor of its covariance, ready for `distance`.

    Attributes:
        mean: `(d,)` float64.
        factor: `(r, d)` float64 with `factor.T @ factor` = covariance.
        trace: trace of the covariance.
    """

    mean: Tensor
    factor: Tensor
    trace: Tensor

    @classmethod
    def from_features(cls, features: Tensor) -> GaussianFactor:
        """Sample mean and unbiased covariance (n - 1) of the rows of `features` `(n, d)`.

        Raises:
            ValueError: not a matrix, or fewer than two rows.
        """
        if features.ndim != 2:
            raise ValueError(f"features have shape {tuple(features.shape)}; expected (n, d)")
        n, d = features.shape
        if n < 2:
            raise ValueError(f"found {n} sample(s); a covariance needs at least 2")
        rows = as_float64(features)
        mean = rows.mean(dim=0)
        centred = (rows - mean) / math.sqrt(n - 1)
        factor = centred if n <= d else torch.linalg.qr(centred, mode="r").R
        return cls(mean, factor, centred.square().sum())

    @classmethod
    def from_moments(cls, mean: Tensor, covariance: Tensor) -> GaussianFactor:
        """From mean `(d,)` and symmetric positive semi-definite covariance `(d, d)`.

        Raises:
            ValueError: shapes do not fit, or the covariance is not symmetric positive semi-definite.
        """
        mean, covariance = as_float64(mean), as_float64(covariance)
        if mean.ndim != 1 or covariance.shape != (len(mean), len(mean)):
            raise ValueError(
                f"mean {tuple(mean.shape)} and covariance {tuple(covariance.shape)}; expected (d,) and (d, d)"
            )
        if not torch.allclose(covariance, covariance.T, rtol=1e-8, atol=1e-8 * float(covariance.abs().max())):
            raise ValueError("the covariance is not symmetric; expected a symmetric positive semi-definite matrix")
        values, vectors = torch.linalg.eigh((covariance + covariance.T) / 2)
        if values[0] < -1e-6 * values[-1].abs():
            raise ValueError(f"the covariance has eigenvalue {values[0].item():.3g}; expected none below 0")
        # An eigenvalue of 0 comes out as rounding, whose square root would be far larger: cut below the numerical rank.
        rounding = len(values) * torch.finfo(values.dtype).eps * values[-1]
        values = torch.where(values > rounding, values, 0.0)
        return cls(mean, values.sqrt()[:, None] * vectors.T, values.sum())

    def distance(self, other: GaussianFactor) -> Tensor:
        """Frechet distance to `other`: scalar float64, >= 0."""
        if len(self.mean) != len(other.mean):
            raise ValueError(f"Gaussians of {len(self.mean)} and {len(other.mean)} dimensions have no distance")
        cross = torch.linalg.svdvals(self.factor @ other.factor.T).sum()
        distance: Tensor = (self.mean - other.mean).square().sum() + self.trace + other.trace - 2 * cross
        distance = distance.clamp(min=0)  # equal Gaussians may come out at -1e-16
        return distance


def as_float64(tensor: Tensor) -> Tensor:
    """`tensor` in float64, on the CPU where its device has no float64 (Apple's MPS)."""
    return (tensor.cpu() if tensor.device.type == "mps" else tensor).to(torch.float64)


def frechet_distance(mean1: Tensor, covariance1: Tensor, mean2: Tensor, covariance2: Tensor) -> Tensor:
    """Frechet distance between two Gaussians given by their moments.

    Args:
        mean1: `(d,)`.
        covariance1: `(d, d)`, symmetric positive semi-definite.
        mean2: `(d,)`.
        covariance2: `(d, d)`, symmetric positive semi-definite.

    Returns:
        Scalar float64, >= 0.

    Raises:
        ValueError: shapes do not fit, or a covariance is none.
    """
    first = GaussianFactor.from_moments(mean1, covariance1)
    return first.distance(GaussianFactor.from_moments(mean2, covariance2))


def frechet_distance_of_features(features1: Tensor, features2: Tensor) -> Tensor:
    """Frechet distance between the Gaussians fitted to two samples, exact for n < d and n >= d alike.

    The estimate is biased upwards by sampling, the more so the larger d and the smaller n: compare only distances of
    equal n.

    Args:
        features1: `(n1, d)`, n1 >= 2.
        features2: `(n2, d)`, n2 >= 2.

    Returns:
        Scalar float64, >= 0.

    Raises:
        ValueError: shapes do not fit, or fewer than two rows.
    """
    return GaussianFactor.from_features(features1).distance(GaussianFactor.from_features(features2))


def pairwise_frechet(gaussians: Sequence[GaussianFactor]) -> Tensor:
    """All distances between K Gaussians, each factorised once: `(K, K)` float64, symmetric, zero diagonal."""
    count = len(gaussians)
    distances = torch.zeros(count, count, dtype=torch.float64)
    for i in range(count):
        for j in range(i + 1, count):
            distances[i, j] = distances[j, i] = gaussians[i].distance(gaussians[j])
    return distances

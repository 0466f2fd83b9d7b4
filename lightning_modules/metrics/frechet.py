r"""Frechet (2-Wasserstein) distance between Gaussians, exactly and from factors shared between pairs.

For N(m1, S1) and N(m2, S2) (Dowson and Landau, "The Frechet distance between multivariate normal distributions", J.
Multivariate Analysis 1982):

    FD = |m1 - m2|^2 + tr S1 + tr S2 - 2 tr (S1 S2)^(1/2)

With any factors S1 = A^T A and S2 = B^T B the last trace is the nuclear norm of A B^T: the non-zero eigenvalues of
S1 S2 are those of the symmetric A S2 A^T = (A B^T)(A B^T)^T. So no matrix square root and no non-symmetric eigenvalue
problem is needed, and what belongs to one Gaussian is computed once for all its pairs.

- n < d samples are their own factor (centred rows): the problem shrinks to n. Where n is hardly smaller, they are
  brought to a triangle by a QR decomposition, which pays as soon as there are a few pairs.
- n >= d samples have a covariance and its Cholesky factor S = L L^T, and L^T S2 L costs half a product.

The eigenvalues of the symmetric matrix are squares, so those below eps of the largest are rounding. Each distance
is therefore checked against a bound of that rounding; where it could be felt (covariances of low numerical rank, nearly
equal Gaussians), or where there is no Cholesky factor, the singular values of A B^T are taken, which are not squared,
with A and B from a QR decomposition of the samples.

All in float64. What is called FD here is the squared distance, as in FID.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from itertools import combinations

import torch
from torch import Tensor

BLOCK = 192


def gram(rows: Tensor) -> Tensor:
    """`rows.T @ rows`, `(d, d)`, of rows `(n, d)`."""
    d = rows.shape[1]
    result = rows.new_empty(d, d)
    for start in range(0, d, BLOCK):
        stop = min(start + BLOCK, d)
        below = rows[:, start:].T @ rows[:, start:stop]
        result[start:, start:stop] = below
        result[start:stop, stop:] = below[stop - start :].T
    return result


def lower_congruence(lower: Tensor, symmetric: Tensor) -> Tensor:
    """`lower.T @ symmetric @ lower` on and below the diagonal; what lies above is not meant to be read.

    With both zeros and symmetry left out it takes d^3 multiply-adds / 2, where two general products take 2 d^3.
    `symmetric` is `(d, d)`, `lower` `(d, r)` and zero above the diagonal; `torch.linalg.eigvalsh` takes the result
    `(r, r)` as it is.
    """
    d = lower.shape[1]
    result = symmetric.new_zeros(d, d)
    for left in range(0, d, BLOCK):
        columns = slice(left, left + BLOCK)
        half = symmetric[left:, left:] @ lower[left:, columns]  # rows `left` and below of `symmetric @ lower`
        for top in range(left, d, BLOCK):
            rows = slice(top, top + BLOCK)
            result[rows, columns] = lower[top:, rows].T @ half[top - left :]
    return result


NEARLY = 0.8
"""From this share of d on, n samples are brought to a triangle: below, their rows make smaller products."""
TOLERANCE = 1e-5
"""Largest bound of the rounding, relative to the distance, that is accepted of squared singular values.

The bound adds up every eigenvalue's worst case, with the sum of each covariance's eigenvalues for its largest; the
errors met are far smaller (tests/metrics/test_frechet_rounding.py).
"""


class GaussianFactor:
    """A Gaussian as mean and factors of its covariance, ready for `distance`; built by `from_features`, `from_moments`.

    Attributes:
        mean: `(d,)` float64.
        trace: trace of the covariance.
        covariance: `(d, d)` float64, or None where the samples are fewer than dimensions.
    """

    def __init__(self, mean: Tensor, trace: Tensor, covariance: Tensor | None, features: Tensor | None) -> None:
        self.mean, self.trace, self.covariance, self._features = mean, trace, covariance, features

    @classmethod
    def from_features(cls, features: Tensor) -> GaussianFactor:
        """Sample mean and unbiased covariance (n - 1) of the rows of `features` `(n, d)`, which are kept, not copied.

        Raises:
            ValueError: not a matrix, fewer than two rows, or NaN or infinity.
        """
        if features.ndim != 2:
            raise ValueError(f"features have shape {tuple(features.shape)}; expected (n, d)")
        n, d = features.shape
        if n < 2:
            raise ValueError(f"found {n} sample(s); a covariance needs at least 2")
        mean, centred = _centred(features)
        if not mean.isfinite().all():
            raise ValueError("the features hold NaN or infinity; no Frechet distance is defined for them")
        gaussian = cls(mean, centred.square().sum(), gram(centred) if n > d else None, features)
        if n <= d:
            gaussian.factor = _full_rank(centred)
        return gaussian

    @classmethod
    def from_moments(cls, mean: Tensor, covariance: Tensor) -> GaussianFactor:
        """From mean `(d,)` and symmetric positive semi-definite covariance `(d, d)`.

        Raises:
            ValueError: shapes do not fit, or the covariance is not symmetric positive semi-definite.
        """
        mean, covariance = as_float64(mean), as_float64(covariance)
        if mean.ndim != 1 or covariance.shape != (len(mean), len(mean)):
            found = f"mean {tuple(mean.shape)} and covariance {tuple(covariance.shape)}"
            raise ValueError(f"{found}; expected (d,) and (d, d)")
        if not torch.allclose(covariance, covariance.T, rtol=1e-8, atol=1e-8 * float(covariance.abs().max())):
            raise ValueError("the covariance is not symmetric; expected a symmetric positive semi-definite matrix")
        covariance = (covariance + covariance.T) / 2
        gaussian = cls(mean, covariance.trace(), covariance, None)
        if gaussian.cholesky is None:
            _ = gaussian.factor  # its eigenvalues say whether it is a covariance
        return gaussian

    @cached_property
    def cholesky(self) -> Tensor | None:
        """Lower triangle L with L L^T = covariance, or None where that is not numerically positive definite."""
        if self.covariance is None:
            return None
        lower, failed = torch.linalg.cholesky_ex(self.covariance)
        return None if failed.item() else lower

    @cached_property
    def factor(self) -> Tensor:
        """`(r, d)` float64 with `factor.T @ factor` = covariance, as exact for singular covariances as for others."""
        if self._features is not None:
            triangle: Tensor = torch.linalg.qr(_centred(self._features)[1], mode="r").R
            return triangle
        assert self.covariance is not None  # one of the two is always given
        values, vectors = torch.linalg.eigh(self.covariance)
        if values[0] < -1e-6 * values[-1].abs():
            raise ValueError(f"the covariance has eigenvalue {values[0].item():.3g}; expected none below 0")
        # An eigenvalue of 0 comes out as rounding, whose square root would be far larger: cut below the numerical rank.
        rounding = len(values) * torch.finfo(values.dtype).eps * values[-1]
        scales: Tensor = torch.where(values > rounding, values, 0.0).sqrt()
        rows: Tensor = scales[:, None] * vectors.T
        return rows

    @cached_property
    def triangle(self) -> Tensor | None:
        """Lower trapezoid L `(d, r)` of few samples, `L L^T` = covariance; None where products of rows are smaller."""
        if self.covariance is not None or len(self.factor) < NEARLY * len(self.mean):
            return None
        upper: Tensor = torch.linalg.qr(self.factor, mode="r").R
        return upper.T.contiguous()

    @cached_property
    def products(self) -> Tensor:
        """The covariance `(d, d)`, made of the rows of few samples where that is asked for."""
        return gram(self.factor) if self.covariance is None else self.covariance

    def prepare(self) -> None:
        """Compute what all distances of this Gaussian share."""
        if self.covariance is not None:
            _ = self.cholesky
        elif self.triangle is not None:
            _ = self.products

    def distance(self, other: GaussianFactor) -> Tensor:
        """Frechet distance to `other`: scalar float64, >= 0.

        Raises:
            ValueError: the dimensions differ.
        """
        if len(self.mean) != len(other.mean):
            raise ValueError(f"Gaussians of {len(self.mean)} and {len(other.mean)} dimensions have no distance")
        apart = (self.mean - other.mean).square().sum() + self.trace + other.trace
        squares = self._squared_singular_values(other)
        if squares is not None:
            distance: Tensor = apart - 2 * squares.sqrt().sum()
            # an error of e in a square s is one of at most e / sqrt(max(s, e)) in its root
            error = torch.finfo(squares.dtype).eps * self.trace * other.trace
            bound = (error / torch.maximum(squares, error).sqrt()).sum()
            if bool(2 * bound <= TOLERANCE * distance):
                return distance
        distance = apart - 2 * torch.linalg.svdvals(self.factor @ other.factor.T).sum()
        return distance.clamp(min=0)  # equal Gaussians may come out at -1e-16

    def _squared_singular_values(self, other: GaussianFactor) -> Tensor | None:
        """Of `A B^T`, by a symmetric eigenvalue problem; None where a covariance has no Cholesky factor."""
        product = self._symmetric_product(other)
        if product is None:
            product = other._symmetric_product(self)
        if product is None:
            return None
        squares: Tensor = torch.linalg.eigvalsh(product)  # reads on and below the diagonal
        return squares.clamp(min=0)

    def _symmetric_product(self, other: GaussianFactor) -> Tensor | None:
        """`A S2 A^T` with our factor A and the other's covariance; None where the other's is to be multiplied out."""
        if self.triangle is not None and other.triangle is not None:
            return lower_congruence(self.triangle, other.products)
        if self.covariance is None:  # our n - 1 rows make the product small
            if other.covariance is not None:
                return self.factor @ other.covariance @ self.factor.T
            cross = self.factor @ other.factor.T
            return gram(cross.T) if len(cross) <= len(cross.T) else gram(cross)
        if other.covariance is None or self.cholesky is None:
            return None
        return lower_congruence(self.cholesky, other.covariance)


def as_float64(tensor: Tensor) -> Tensor:
    """`tensor` in float64, on the CPU where its device has no float64 (Apple's MPS)."""
    return (tensor.cpu() if tensor.device.type == "mps" else tensor).to(torch.float64)


def float64_scalar(value: float, device: torch.device) -> Tensor:
    """What a metric computes, on its device; like `as_float64`, on the CPU for Apple's MPS."""
    return torch.tensor(value, dtype=torch.float64, device="cpu" if device.type == "mps" else device)


def _centred(features: Tensor) -> tuple[Tensor, Tensor]:
    """Mean `(d,)`, and rows whose products sum to the unbiased covariance `(n, d)`, float64."""
    rows = as_float64(features)
    mean = rows.mean(dim=0)
    return mean, (rows - mean).div_(math.sqrt(len(rows) - 1))


def _full_rank(centred: Tensor) -> Tensor:
    """`(n - 1, d)` with the products of centred rows `(n, d)`, whose sum of 0 would be a singular value of 0.

    The reflection that takes (1, ..., 1) to the first axis leaves nothing in the first row: the others get its share.
    """
    return centred[1:] + centred[0] / (math.sqrt(len(centred)) - 1)


def frechet_distance(mean1: Tensor, covariance1: Tensor, mean2: Tensor, covariance2: Tensor) -> Tensor:
    """Frechet distance, float64 and >= 0, between Gaussians of means `(d,)` and covariances `(d, d)`.

    Raises:
        ValueError: shapes do not fit, or a covariance is none.
    """
    first = GaussianFactor.from_moments(mean1, covariance1)
    return first.distance(GaussianFactor.from_moments(mean2, covariance2))


def pairwise_frechet(gaussians: Sequence[GaussianFactor]) -> Tensor:
    """All distances between K Gaussians, each factorised once: `(K, K)` float64, symmetric, zero diagonal.

    On the CPU each thread takes whole pairs: an eigenvalue problem waits for memory, and two threads on one finish it
    hardly sooner than one does.
    """
    distances = torch.zeros(len(gaussians), len(gaussians), dtype=torch.float64)
    pairs = list(combinations(range(len(gaussians)), 2))

    def distance(pair: tuple[int, int]) -> Tensor:
        return gaussians[pair[0]].distance(gaussians[pair[1]])

    threads = torch.get_num_threads()
    if threads == 1 or any(gaussian.mean.device.type != "cpu" for gaussian in gaussians):
        found = [distance(pair) for pair in pairs]
    else:
        try:
            with ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,)) as pool:
                list(pool.map(GaussianFactor.prepare, gaussians))
                found = list(pool.map(distance, pairs))
        finally:
            torch.set_num_threads(threads)  # part of it holds for all threads
    for (i, j), value in zip(pairs, found, strict=True):
        distances[i, j] = distances[j, i] = value
    return distances

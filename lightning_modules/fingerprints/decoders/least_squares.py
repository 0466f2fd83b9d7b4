"""Reading a key by least squares: Levenberg-Marquardt on latent and key together, with the evidence for each bit.

A latent has a hundred coordinates and an image thousands of pixels, so one Jacobian tells at once how every coordinate
and every bit shows in the image. Gradient descent, which the paper uses, creeps along the same valleys for thousands of
steps: the key lies on the axes of least variance, whose slopes are the faintest.

The key is searched for as numbers without bounds rather than through a sigmoid, whose slope vanishes where it should
decide; its bits are decided together at the end (`decide`). Latents are pulled to the mean as strongly as the residual
is noisy (the posterior's mode for alpha ~ N(0, I)), and the residual's variance is measured as the search goes on, so
that clean and damaged images need no setting.

What attacks leave of an image is not equally sure everywhere: JPEG rounds each frequency by its own step. So every
channel of the features is weighted by the noise that the residual shows in it (`_noise`), image by image, and a network
that has seen the image first can say how far it trusts its own answer.

Jacobians are secants over a step of the latent: half the work of forward-mode differentiation, and they see through
what has no slope, such as pixels beyond black and white or the codes of a vector quantisation.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor

from lightning_modules.common.random_streams import standard_normal_latents
from lightning_modules.fingerprints.decoders.base import UNWATCHED, KeyEstimate, Watch
from lightning_modules.fingerprints.decoders.losses import ImageLoss
from lightning_modules.fingerprints.fingerprint import Fingerprint
from lightning_modules.generators.protocol import Generator


def decide(key: Tensor, precision: Tensor, odds: Tensor | None = None, rounds: int = 64) -> Tensor:
    """Log odds of the bits under a Gaussian likelihood, each against the best key that has the other bit.

    Args:
        key: estimate of the key as real numbers, float `(n, m)`.
        precision: inverse covariance of all coordinates, `(n, k + m, k + m)`, the key's last. A prior of the same
            width and centre 1/2 on each bit may be in it: it says the same of every key of bits.
        odds: log odds of the bits known beforehand, `(n, m)`; None for even.
        rounds: most changes to a key.

    Returns:
        float32 `(n, m)`, positive for 1; upper bounds in size, since only changes of at most two bits are tried.
    """
    m = key.shape[1]
    odds = torch.zeros_like(key) if odds is None else odds
    inner, across, outer = precision[:, :-m, :-m], precision[:, :-m, -m:], precision[:, -m:, -m:]
    marginal = outer - across.mT @ torch.linalg.solve(inner, across)  # of the key, whatever alpha is
    bits = (key > 0.5).to(key.dtype)
    for _ in range(rounds):
        single, double = _changes(bits, key, marginal, odds)
        best, where = torch.cat([single, double.flatten(1)], dim=1).min(dim=1)
        better = best < -1e-6
        if not bool(better.any()):
            break
        pair = (where - m).clamp_min(0)
        first = torch.where(where < m, where, pair // m)
        second = torch.where(where < m, where, pair % m)
        flips = torch.zeros_like(bits).scatter_(1, first[:, None], 1.0).scatter_(1, second[:, None], 1.0)
        bits = torch.where(better[:, None], (bits - flips).abs(), bits)
    single, double = _changes(bits, key, marginal, odds)
    odds = torch.minimum(single, double.min(dim=2).values).clamp_min(1e-6)  # of the best key with the other bit
    return ((2.0 * bits - 1.0) * odds).float()


def _changes(bits: Tensor, key: Tensor, marginal: Tensor, odds: Tensor) -> tuple[Tensor, Tensor]:
    """What changing one bit `(n, m)` and two bits `(n, m, m)` adds to half the squared distance less the odds."""
    change = 1.0 - 2.0 * bits
    slope = (marginal @ (bits - key)[:, :, None])[:, :, 0] - odds
    single = change * slope + 0.5 * marginal.diagonal(dim1=1, dim2=2)
    double = single[:, :, None] + single[:, None, :] + change[:, :, None] * change[:, None, :] * marginal
    return single, double + torch.diag_embed(torch.full_like(single, float("inf")))


KEY_CENTRE, KEY_DEVIATION = 0.5, 0.5  # of a fair bit
FLOOR = (1.0 / 255.0) ** 2 / 12.0
"""Variance of rounding to 8 bits: no saved image's residual is smaller."""
SHRINKAGE = 8.0
"""Positions of mean noise that are added to each channel's own."""
LEAK = 0.02
"""Slope of a pixel beyond black or white: a saved file has none, a search without any would never come back."""


@dataclass(frozen=True)
class LeastSquaresSettings:
    """How a least-squares search is run.

    Attributes:
        iterations: most Jacobians computed of a start.
        survivors: pairs (iteration, starts): from that iteration on only so many starts of each image, those of least
            residual.
        steps: most steps taken on one Jacobian, which each of them corrects as Broyden does; they cost next to nothing.
        damping: first damping, relative to the diagonal of the normal equations.
        tolerance: relative fall of the cost below which an image is done.
        stop_log_odds: evidence of the least certain bit from which an image is done, once a further Jacobian has left
            all bits as they were; 0 goes on until the cost no longer falls.
        secant: step of the secants in standard deviations; a larger one sees past the cells of a quantised latent.
        batch: starts whose Jacobians are computed together.
        rows: images synthesised together for a Jacobian; on a CPU few, since large blocks of memory are mapped anew.
    """

    iterations: int = 12
    survivors: tuple[tuple[int, int], ...] = ()
    steps: int = 6
    damping: float = 1e-2
    tolerance: float = 1e-3
    stop_log_odds: float = 0.0
    secant: float = 0.05
    batch: int = 1
    rows: int = 64

    def __post_init__(self) -> None:
        """Refuse settings that cannot be run."""
        counts = min(self.iterations, self.steps, self.batch, self.rows)
        if counts < 1 or not self.damping > 0.0 or not 0.0 <= self.tolerance < 1.0:
            raise ValueError(
                f"found {self}, expected iterations, steps, batch and rows of at least 1, damping > 0, tolerance < 1"
            )
        stages = [(0, math.inf), *self.survivors]
        if any(later[0] <= earlier[0] or not 1 <= later[1] < earlier[1] for earlier, later in pairwise(stages)):
            raise ValueError(
                f"found survivors {self.survivors}, expected rising iterations from 1 on with falling starts"
            )
        if not self.secant > 0.0 or self.stop_log_odds < 0.0:
            raise ValueError(
                f"found secant {self.secant} and stop_log_odds {self.stop_log_odds}, expected above 0 and at least 0"
            )


Behind = Callable[[Tensor], Tensor]
"""What images met after they were made."""


def _as_made(images: Tensor) -> Tensor:
    return images


class StepResult(NamedTuple):
    """Where the steps on one Jacobian have led."""

    values: Tensor  # (n, k + m)
    made: Tensor  # features (n, c, p)
    damping: Tensor  # (n,)
    precision: Tensor  # of the values, (n, k + m, k + m)
    fell: Tensor  # relative fall of the cost (n,)


class LeastSquaresDecoder:
    """Improves given starts by Levenberg-Marquardt.

    Args:
        synthesize: latents `(n, d)` to images `(n, 3, H, W)`, of which no derivative is asked.
        fingerprint: the fingerprint of that generator, on its device.
        loss: an image loss of one feature map, such as `spectrum` or `pixels` of one scale.
        settings: how to run.
        watch: told of each finished image, asked before each synthesis.
    """

    def __init__(
        self,
        synthesize: Callable[[Tensor], Tensor],
        fingerprint: Fingerprint,
        loss: ImageLoss,
        settings: LeastSquaresSettings | None = None,
        watch: Watch = UNWATCHED,
    ) -> None:
        self.synthesize, self.fingerprint, self.loss = synthesize, fingerprint, loss
        self.settings, self.watch = settings or LeastSquaresSettings(), watch
        self.axes = len(fingerprint.other_deviation)

    def decode(self, images: Tensor) -> KeyEstimate:
        """Decode images `(n, 3, H, W)` in [0, 1] from the mean latent and an undecided key."""
        return self.refine(images, images.new_zeros(len(images), self.axes), images.new_zeros(len(images), 1))

    @torch.no_grad()
    def refine(
        self,
        images: Tensor,
        alpha: Tensor,
        logits: Tensor,
        alpha_error: Tensor | None = None,
        behind: Behind | None = None,
    ) -> KeyEstimate:
        """Decode from given starts.

        Args:
            images: `(n, 3, H, W)` in [0, 1].
            alpha: `(n, k)` in standard deviations, or `(n, s, k)` for several starts of each image.
            logits: key logits `(n, m)`, or `(n, s, m)`, or anything that expands to it.
            alpha_error: variance of the error of the given alpha, `(k,)`: the start is then what is known beforehand,
                and `logits` the log odds of the bits. None takes the start for no more than a start.
            behind: what the images met after they were made, such as a blur; None for nothing.

        Returns:
            Log odds of the bits under the Gaussian approximation, and the mean squared residual, of the start whose
            search left the least residual. They are too sure where residuals depend on each other: calibrate before use
            as odds.
        """
        bits = self.fingerprint.bits
        n, starts = len(images), alpha.shape[1] if alpha.ndim == 3 else 1
        logits = logits.expand(*alpha.shape[:-1], bits).reshape(n * starts, bits)
        alpha = alpha.reshape(n * starts, self.axes)
        start = torch.cat([alpha, torch.sigmoid(logits)], dim=1)
        centre, weight = torch.zeros_like(start), torch.ones_like(start)
        centre[:, self.axes :], weight[:, self.axes :] = KEY_CENTRE, 1.0 / KEY_DEVIATION**2
        odds = torch.zeros_like(logits)
        if alpha_error is not None:
            weight[:, : self.axes], centre[:, : self.axes], odds = 1.0 / alpha_error, alpha, logits
        size = self.settings.batch  # of images here, each with all its starts
        parts = []
        for first in range(0, n, size):
            known = (tensor[first * starts : (first + size) * starts] for tensor in (start, centre, weight, odds))
            parts.append(self._search(images[first : first + size], behind or _as_made, *known))
            self.watch.advance(len(images[first : first + size]))
        values, evidence, residual = (torch.cat(group) for group in zip(*parts, strict=True))
        return KeyEstimate(evidence, residual, self._latents(values))

    def _search(
        self, images: Tensor, behind: Behind, values: Tensor, centre: Tensor, weight: Tensor, odds: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Search from all starts `(n s, k + m)` of images `(n, 3, H, W)`, image by image, and choose.

        What is known of the values beforehand has a centre and a weight `(n s, k + m)`, that of the bits `odds`.

        Returns:
            Values found `(n, k + m)`, evidence of the bits `(n, m)` and mean squared residual `(n,)`.
        """
        target = self._features(images).repeat_interleave(len(values) // len(images), dim=0)
        made = torch.cat([self._made(some, behind) for some in torch.split(values, self.settings.rows)])
        damping = torch.full_like(made[:, 0, 0], self.settings.damping)
        evidence = values.new_zeros(len(values), self.fingerprint.bits)
        active = torch.arange(len(values), device=values.device)
        kept = torch.ones_like(active, dtype=torch.bool)
        limits = dict(self.settings.survivors)
        for iteration in range(self.settings.iterations):
            if iteration in limits:
                kept = _least(_residual(target, made, kept).view(len(images), -1), limits[iteration]).flatten()
                active = active[kept[active]]
            if not len(active):
                break
            going = []
            for some in torch.split(active, self.settings.batch):
                known = (centre[some], weight[some], behind)
                found = self._steps(values[some], made[some], target[some], damping[some], *known)
                values, made = values.index_copy(0, some, found.values), made.index_copy(0, some, found.made)
                damping = damping.index_copy(0, some, found.damping)
                before = evidence[some]
                evidence[some] = now = decide(found.values[:, self.axes :], found.precision, odds[some])
                on = found.fell > self.settings.tolerance
                if self.settings.stop_log_odds and iteration:
                    on &= ((now > 0) != (before > 0)).any(dim=1) | (now.abs().amin(dim=1) < self.settings.stop_log_odds)
                going.append(some[on])
            active = torch.cat(going)
        residual = _residual(target, made, kept)
        best = _least(residual.view(len(images), -1), 1).flatten()
        return values[best], evidence[best], residual[best]

    def _steps(
        self,
        values: Tensor,
        made: Tensor,
        target: Tensor,
        damping: Tensor,
        centre: Tensor,
        weight: Tensor,
        behind: Behind,
    ) -> StepResult:
        """Compute one Jacobian and step on it while that helps."""
        scale = _noise(target - made).rsqrt().expand_as(made).flatten(1)  # (n, q)
        jacobian = self._jacobian(values, made, behind).mul_(scale[:, None])  # (n, k + m, q), transposed
        precision = torch.baddbmm(torch.diag_embed(weight), jacobian, jacobian.mT)
        residual = (target - made).flatten(1) * scale
        start = cost = _cost(residual, weight, values - centre)
        for _ in range(self.settings.steps):
            slope = _product(jacobian, residual) - weight * (values - centre)
            damped = precision + torch.diag_embed(damping[:, None] * precision.diagonal(dim1=1, dim2=2))
            step = torch.linalg.solve(damped, slope)
            trial = self._made(values + step, behind)
            residual_trial = (target - trial).flatten(1) * scale
            cost_trial = _cost(residual_trial, weight, values + step - centre)
            surprise = residual - residual_trial - _product(jacobian.mT, step)
            _correct(jacobian, precision, surprise, step / step.square().sum(dim=1, keepdim=True))
            better = cost_trial < cost
            little = better & (cost_trial > (1.0 - self.settings.tolerance) * cost)
            values = torch.where(better[:, None], values + step, values)
            made = torch.where(better[:, None, None], trial, made)
            residual = torch.where(better[:, None], residual_trial, residual)
            cost = torch.where(better, cost_trial, cost)
            damping = torch.where(better, damping / 3.0, damping * 4.0).clamp(1e-8, 1e8)
            if bool((little | (damping > 1e6)).all()):
                break
        return StepResult(values, made, damping, precision, 1.0 - cost / start)

    def _jacobian(self, values: Tensor, made: Tensor, behind: Behind) -> Tensor:
        """Secants of the features along every coordinate, `(n, k + m, q)`: the Jacobian's transpose."""
        n, width = values.shape
        steps = self.settings.secant * torch.eye(width, device=values.device)
        moved = values.new_empty(n * width, made[0].numel())  # filled in place: with many axes it fills the memory
        rows = torch.split((values[:, None] + steps).flatten(0, 1), self.settings.rows)
        for part, some in zip(torch.split(moved, self.settings.rows), rows, strict=True):
            part.copy_(self._made(some, behind).flatten(1))
        return moved.view(n, width, -1).sub_(made.flatten(1)[:, None]).div_(self.settings.secant)

    def _made(self, values: Tensor, behind: Behind) -> Tensor:
        self.watch.check()
        made = self.synthesize(self._latents(values))
        shown = made.clamp(0.0, 1.0)
        return self._features(behind(shown + LEAK * (made - shown)))

    def _features(self, images: Tensor) -> Tensor:
        """Features of images, position by position, `(n, c, p)`."""
        (features,) = self.loss.features(images)
        return features.flatten(2)

    def _latents(self, values: Tensor) -> Tensor:
        fingerprint = self.fingerprint
        alpha, key = values[:, : self.axes], values[:, self.axes :]
        outside = (alpha * fingerprint.other_deviation) @ fingerprint.other_axes
        return fingerprint.mean + outside + fingerprint.offset(key)


def _residual(target: Tensor, made: Tensor, kept: Tensor) -> Tensor:
    """Mean squared residual of features `(r, c, p)` in each row `(r,)`; infinite in rows that are not kept."""
    return (target - made).square().flatten(1).mean(dim=1).masked_fill(~kept, float("inf"))


def _least(residual: Tensor, starts: int) -> Tensor:
    """Which starts of each image, `(n, s)` bool, are among its so many of least residual."""
    best = residual.argsort(dim=1, stable=True)[:, :starts]
    return torch.zeros_like(residual, dtype=torch.bool).scatter_(1, best, True)


def _noise(residual: Tensor) -> Tensor:
    """Variance of the residual `(n, c, p)` in each channel, `(n, c, 1)`, drawn to that of the whole image."""
    squares = residual.square()
    whole = squares.mean(dim=(1, 2), keepdim=True)
    return ((squares.sum(dim=2, keepdim=True) + SHRINKAGE * whole) / (residual.shape[2] + SHRINKAGE)).clamp_min(FLOOR)


def _product(matrices: Tensor, vectors: Tensor) -> Tensor:
    """Matrices `(n, a, b)` times vectors `(n, b)`."""
    return (matrices @ vectors[:, :, None])[:, :, 0]


def _correct(jacobian: Tensor, precision: Tensor, surprise: Tensor, along: Tensor) -> None:
    """Broyden's correction, in place, of a transposed Jacobian `(n, w, q)` and of `J J^T` in the precision `(n, w, w)`.

    `J' = J + along surprise^T` changes `J J^T` by a matrix of rank two: no product of that size is computed again.
    The surprise `(n, q)` is what the last step changed beyond what J said, `along` that step over its squared length.
    """
    half = _product(jacobian, surprise) + 0.5 * surprise.square().sum(dim=1, keepdim=True) * along
    outer = half[:, :, None] * along[:, None]
    precision += outer + outer.mT
    jacobian.baddbmm_(along[:, :, None], surprise[:, None])


def _cost(residual: Tensor, weight: Tensor, offset: Tensor) -> Tensor:
    return residual.square().sum(dim=1) + (weight * offset.square()).sum(dim=1)


DRAWS = 256


@dataclass(frozen=True)
class SearchSpace:
    """A smooth map of latents `(n, d)` to images and the spread of what is put into it.

    A vector-quantised decoder is piecewise constant, so no search can follow its slopes; the decoder behind the
    quantisation is smooth. A key is then looked for in the codes, which are latent plus quantisation error, and the
    deviation of each coordinate grows by that error's, by the factors `widening` `(k,)`.
    """

    synthesize: Callable[[Tensor], Tensor]
    fingerprint: Fingerprint
    widening: Tensor


@torch.no_grad()
def search_space(generator: Generator, fingerprint: Fingerprint) -> SearchSpace:
    """The space to search a generator's keys in."""
    smooth = getattr(generator, "synthesize_codes", None)
    if smooth is None:
        return SearchSpace(generator.synthesize, fingerprint, torch.ones_like(fingerprint.other_deviation))
    normals = standard_normal_latents(DRAWS, fingerprint.latent_dim, seed=0).to(fingerprint.mean)
    keys = torch.arange(DRAWS * fingerprint.bits, device=normals.device).view(DRAWS, -1) % 2
    latents = fingerprint.embed(fingerprint.gaussian_latents(normals), keys)
    error: float = generator.quantisation_error(latents)  # type: ignore[attr-defined]
    wide = (fingerprint.other_deviation.square() + error**2).sqrt()
    return SearchSpace(smooth, replace(fingerprint, other_deviation=wide), wide / fingerprint.other_deviation)

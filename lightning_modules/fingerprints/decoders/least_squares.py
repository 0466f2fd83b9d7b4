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

A latent of hundreds of coordinates, as at 256 px, would cost as many syntheses for each Jacobian. There it is computed
along few directions: first along those of the gradient's Krylov space, in which conjugate gradients would move; at last
along the key and along what of the latent can be confused with it, which is what the evidence needs.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from lightning_modules.fingerprints.decoders.base import UNWATCHED, KeyEstimate, Watch
from lightning_modules.fingerprints.decoders.bit_detection import decide
from lightning_modules.fingerprints.decoders.directions import krylov_directions, orthonormal
from lightning_modules.fingerprints.decoders.losses import ImageLoss
from lightning_modules.fingerprints.decoders.search_settings import LeastSquaresSettings
from lightning_modules.fingerprints.decoders.search_space import leaky
from lightning_modules.fingerprints.fingerprint import Fingerprint

KEY_CENTRE, KEY_DEVIATION = 0.5, 0.5  # of a fair bit
FLOOR = (1.0 / 255.0) ** 2 / 12.0
"""Variance of rounding to 8 bits: no saved image's residual is smaller."""
SHRINKAGE = 8.0
"""Positions of mean noise that are added to each channel's own."""
MANY_COORDINATES = 256
"""Coordinates from which on a search goes along few directions unless told otherwise."""
DIRECTIONS = 12
"""Directions of a Krylov space, where the settings name none."""


Behind = Callable[[Tensor], Tensor]
"""What images met after they were made."""


def _as_made(images: Tensor) -> Tensor:
    return images


class StepResult(NamedTuple):
    """Where the steps on one Jacobian have led."""

    values: Tensor  # (n, k + m)
    made: Tensor  # features (n, c, p)
    damping: Tensor  # (n,)
    precision: Tensor  # of the values, or of their coordinates along directions that end with the key, (n, r, r)
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
        coordinates, asked = self.axes + fingerprint.bits, self.settings.directions
        few = DIRECTIONS if coordinates >= MANY_COORDINATES else 0
        self.directions = min(few if asked is None else asked, coordinates)

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
        # along few directions images come near first, then to the key
        near = torch.full_like(kept, self.directions == 0)
        for iteration in range(self.settings.iterations * (2 if self.directions else 1)):
            if iteration in limits:
                kept = _least(_residual(target, made, kept).view(len(images), -1), limits[iteration]).flatten()
                active = active[kept[active]]
            if not len(active):
                break
            going = []
            for some, at_key in self._groups(active, near):
                known = (centre[some], weight[some], behind, at_key)
                found = self._steps(values[some], made[some], target[some], damping[some], *known)
                values, made = values.index_copy(0, some, found.values), made.index_copy(0, some, found.made)
                damping = damping.index_copy(0, some, found.damping)
                on = found.fell > self.settings.tolerance
                if not at_key:
                    near[some] = ~on | (iteration + 1 >= self.settings.iterations)
                    going.append(some)
                    continue
                before = evidence[some]
                evidence[some] = now = decide(found.values[:, self.axes :], found.precision, odds[some])
                if self.settings.stop_log_odds and iteration:
                    on &= ((now > 0) != (before > 0)).any(dim=1) | (now.abs().amin(dim=1) < self.settings.stop_log_odds)
                going.append(some[on])
            active = torch.cat(going)
        residual = _residual(target, made, kept)
        best = _least(residual.view(len(images), -1), 1).flatten()
        return values[best], evidence[best], residual[best]

    def _groups(self, active: Tensor, near: Tensor) -> list[tuple[Tensor, bool]]:
        """Starts whose Jacobians are computed together, and whether these are to tell the key."""
        parts = [(active[near[active]], True), (active[~near[active]], False)]
        return [
            (some, at_key) for part, at_key in parts if len(part) for some in torch.split(part, self.settings.batch)
        ]

    def _steps(
        self,
        values: Tensor,
        made: Tensor,
        target: Tensor,
        damping: Tensor,
        centre: Tensor,
        weight: Tensor,
        behind: Behind,
        at_key: bool,
    ) -> StepResult:
        """Compute one Jacobian, along the key or only nearer to the image, and step on it while that helps."""
        scale = _noise(target - made).rsqrt().expand_as(made).flatten(1)  # (n, q)
        residual = (target - made).flatten(1) * scale
        start = cost = _cost(residual, weight, values - centre)
        along = None  # every coordinate, or directions (n, r, k + m)
        if not self.directions:
            jacobian = self._jacobian(values, made, behind).mul_(scale[:, None])  # (n, k + m, q), transposed
            precision = torch.baddbmm(torch.diag_embed(weight), jacobian, jacobian.mT)
        else:
            few = self._along_key if at_key else self._along_gradient
            along, jacobian = few(values, made, residual, scale, centre, weight, behind)
            prior = (along * weight[:, None]) @ along.mT
            prior += torch.diag_embed((prior.diagonal(dim1=1, dim2=2) == 0.0).to(prior))  # directions of no length
            precision = torch.baddbmm(prior, jacobian, jacobian.mT)
        for _ in range(self.settings.steps):
            pull = weight * (values - centre)
            slope = _product(jacobian, residual) - (pull if along is None else _product(along, pull))
            damped = precision + torch.diag_embed(damping[:, None] * precision.diagonal(dim1=1, dim2=2))
            reduced = torch.linalg.solve(damped, slope)
            step = reduced if along is None else _product(along.mT, reduced)
            trial = self._made(values + step, behind)
            residual_trial = (target - trial).flatten(1) * scale
            cost_trial = _cost(residual_trial, weight, values + step - centre)
            surprise = residual - residual_trial - _product(jacobian.mT, reduced)
            length = reduced.square().sum(dim=1, keepdim=True)
            _correct(jacobian, precision, surprise, reduced / (length if along is None else length.clamp_min(1e-30)))
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

    def _jacobian(self, values: Tensor, made: Tensor, behind: Behind, along: Tensor | None = None) -> Tensor:
        """Secants of the features along directions `(n or 1, r, k + m)`, or every coordinate: J^T, `(n, r, q)`."""
        n, width = values.shape
        directions = torch.eye(width, device=values.device)[None] if along is None else along
        steps = self.settings.secant * directions
        # filled in place: with many axes it fills the memory
        moved = values.new_empty(n * steps.shape[1], made[0].numel())
        rows = torch.split((values[:, None] + steps).flatten(0, 1), self.settings.rows)
        for part, some in zip(torch.split(moved, self.settings.rows), rows, strict=True):
            part.copy_(self._made(some, behind).flatten(1))
        return moved.view(n, steps.shape[1], -1).sub_(made.flatten(1)[:, None]).div_(self.settings.secant)

    def _along_gradient(
        self,
        values: Tensor,
        made: Tensor,
        residual: Tensor,
        scale: Tensor,
        centre: Tensor,
        weight: Tensor,
        behind: Behind,
    ) -> tuple[Tensor, Tensor]:
        """Directions `(n, r, k + m)` in which conjugate gradients would move, and their columns `(n, r, q)`."""
        spread = weight.rsqrt()  # coordinates times its inverse have a prior of unit width
        pull = self._pull_back(values, behind)

        def secant(direction: Tensor) -> Tensor:
            return self._jacobian(values, made, behind, (direction * spread)[:, None])[:, 0] * scale

        def gradient(features: Tensor) -> Tensor:
            return pull(features * scale) * spread

        start = gradient(residual) - (values - centre) / spread
        along, columns = krylov_directions(start, secant, gradient, self.directions)
        return along * spread[:, None], columns

    def _along_key(
        self,
        values: Tensor,
        made: Tensor,
        residual: Tensor,
        scale: Tensor,
        centre: Tensor,
        weight: Tensor,
        behind: Behind,
    ) -> tuple[Tensor, Tensor]:
        """Directions `(n, r, k + m)` of the latent that can be confused with the key, then the key, and their columns.

        The bits' evidence is that of the key whatever the latent is, so it takes the part of the latent that changes
        the image as the key does: the first block of the Krylov space of `J_alpha^T J_key`.
        """
        n, width = values.shape
        spread, pull = weight.rsqrt(), self._pull_back(values, behind)
        key = torch.eye(width, device=values.device)[self.axes :].expand(n, -1, -1)
        of_key = self._jacobian(values, made, behind, key).mul_(scale[:, None])
        alike = torch.stack([pull(column * scale) * spread for column in of_key.unbind(dim=1)], dim=1)
        confused = torch.zeros(n, min(self.fingerprint.bits, self.axes), width, device=values.device)
        confused[:, :, : self.axes] = orthonormal(alike[:, :, : self.axes])
        confused *= spread[:, None]
        of_confused = self._jacobian(values, made, behind, confused).mul_(scale[:, None])
        return torch.cat([confused, key], dim=1), torch.cat([of_confused, of_key], dim=1)

    def _pull_back(self, values: Tensor, behind: Behind) -> Callable[[Tensor], Tensor]:
        """The product of J^T with features `(n, q)`; one synthesis, then a backward pass for each product."""
        with torch.inference_mode(False), torch.enable_grad():
            at = values.clone().requires_grad_(True)
            features = self._made(at, behind).flatten(1)

        def product(given: Tensor) -> Tensor:
            self.watch.check()
            with torch.inference_mode(False):
                (found,) = torch.autograd.grad(features, at, given.clone(), retain_graph=True)
            return found

        return product

    def _made(self, values: Tensor, behind: Behind) -> Tensor:
        self.watch.check()
        return self._features(behind(leaky(self.synthesize(self._latents(values)))))

    def _features(self, images: Tensor) -> Tensor:
        """Features of images, position by position, `(n, c, p)`."""
        (features,) = self.loss.features(images)
        return features.flatten(2)

    def _latents(self, values: Tensor) -> Tensor:
        return self.fingerprint.latents(values[:, : self.axes], values[:, self.axes :])


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

"""Refining an answer: a fixed number of conjugate-gradient steps towards the image that was read.

A network says roughly what an image's latent and key are. What is left of the image, less the one that this answer
makes, tells the rest: Gauss-Newton's step from the answer, within what the answer is trusted for. Its equations are
solved by conjugate gradients, of which each step takes two products with the Jacobian: forward as a secant, that is one
synthesis, and back as one backward pass. No Jacobian is computed, images are refined together, and every one of them
costs the same, a twentieth of a search by least squares.

Sources: Nocedal and Wright, Numerical Optimization, 2006, section 7.1 (inexact Newton methods); Aggarwal et al., MoDL,
IEEE TMI 2019, section III (a few conjugate-gradient steps between a network's answers).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lightning_modules.common.random_streams import standard_normal_latents
from lightning_modules.fingerprints.decoders.base import UNWATCHED, KeyEstimate, Watch
from lightning_modules.fingerprints.decoders.post_processing import Filter
from lightning_modules.fingerprints.decoders.registrations import registrations
from lightning_modules.fingerprints.decoders.search_space import SearchSpace
from lightning_modules.fingerprints.settings import at_least

SECANT = 0.01
"""Length of a secant, root mean square over the coordinates: deviations of the latent, distances of a bit's values."""
LEAST_NOISE = 1e-5
"""Least variance that a residual is taken for: four fifths of a grey level, for what no latent explains."""
LEAST_DOUBT = 0.005
"""Least variance of a bit's value, in [0, 1], around the network's answer."""
MODEL_ERROR = 0.05
"""Variance of a bit's value, in [0, 1], that is added to what the curvature says of it."""
TRUST = 0.4
"""Factor of the log odds: residuals of neighbouring pixels depend on each other, and the diagonal of the curvature, of
images that met no filter, is not all of it. Fitted with `MODEL_ERROR` by the cross-entropy of 200 images of `ldm64`
under ten attacks, on which the numbers of steps were chosen too; no table of refined answers is made of these images.
Other fingerprints take the same values."""
PROBES = 128


@dataclass(frozen=True)
class RefinementSettings:
    """How answers are refined.

    Attributes:
        iterations: how often the generator is linearised.
        steps: of conjugate gradients, on each linearisation.
        batch: images that are refined together.
        registrations: what is tried beside the image as it is, names of `registrations.REGISTRATIONS`, and
            `fine`. The likeliest reading is refined, by the network's certainty and the image that it makes.
    """

    iterations: int = 2
    steps: int = 5
    batch: int = 64
    registrations: Sequence[str] = ()

    def __post_init__(self) -> None:
        """Refuse settings that cannot be run."""
        for name in ("iterations", "steps", "batch"):
            at_least(name, getattr(self, name), 1)
        registrations(self.registrations)


class Refinement:
    """Refines given answers.

    Args:
        space: a smooth map of latents to images.
        settings: how to run.
        watch: told of each finished image, asked before each synthesis.
    """

    def __init__(
        self, space: SearchSpace, settings: RefinementSettings | None = None, watch: Watch = UNWATCHED
    ) -> None:
        self.space, self.settings, self.watch = space, settings or RefinementSettings(), watch
        self._curvature: Tensor | None = None

    @torch.no_grad()
    def refine(
        self,
        images: Tensor,
        alpha: Tensor,
        logits: Tensor,
        alpha_error: Tensor | None = None,
        behind: Filter | None = None,
    ) -> KeyEstimate:
        """Refine answers to images `(n, 3, H, W)` in [0, 1].

        Args:
            images: as 8-bit files hold them.
            alpha: `(n, k)` in standard deviations.
            logits: log odds of the bits, `(n, m)`.
            alpha_error: variance of the error of the given alpha, `(k,)`; None trusts it as little as the mean.
            behind: what the images met after they were made, such as a blur; None for nothing.

        Returns:
            Log odds of the bits under the Gaussian approximation, the mean squared residual, and the latents.
        """
        known = alpha.new_ones(alpha.shape[1]) if alpha_error is None else alpha_error
        chances = torch.sigmoid(logits)
        centre = torch.cat([alpha, chances], dim=1)
        doubt = torch.cat([known.expand_as(alpha), (chances * (1.0 - chances)).clamp_min(LEAST_DOUBT)], dim=1)
        parts = []
        for first in range(0, max(1, len(images)), self.settings.batch):
            some = slice(first, first + self.settings.batch)
            parts.append(self._refined(images[some], centre[some], doubt[some], behind))
            self.watch.advance(len(images[some]))
        return KeyEstimate.joined(parts)

    def _refined(self, images: Tensor, centre: Tensor, doubt: Tensor, behind: Filter | None) -> KeyEstimate:
        values, weight, noise = centre, 1.0 / doubt, None
        self.curvature()  # whose graph is not to lie in memory beside another
        for _ in range(self.settings.iterations):
            step, noise = self._step(images, values, centre, weight, noise, behind)
            values = values + step
        assert noise is not None
        variance = self._variance(noise, weight)
        bits = self.space.fingerprint.bits
        alpha, key = values[:, :-bits], values[:, -bits:]
        residual = (images - self._made(values, behind)).square().mean(dim=(1, 2, 3))
        return KeyEstimate(
            TRUST * (key - 0.5) / (variance[:, -bits:] + MODEL_ERROR),
            residual,
            self.space.fingerprint.latents(alpha, key),
        )

    def _step(
        self,
        images: Tensor,
        values: Tensor,
        centre: Tensor,
        weight: Tensor,
        noise: Tensor | None,
        behind: Filter | None,
    ) -> tuple[Tensor, Tensor]:
        """Gauss-Newton's step `(n, k + m)` from values, and the variance of the noise `(n, 1)`.

        Where that is not given it is what the images of the values leave. The graph of a linearisation ends with it.
        """
        made, pull = self._linearised(values, behind)
        left = images - made
        if noise is None:
            noise = left.square().mean(dim=(1, 2, 3)).clamp_min(LEAST_NOISE)[:, None]
        slope = pull(left) / noise - weight * (values - centre)
        precision = self._precision(values, made, pull, noise, weight, behind)
        return conjugate_gradients(precision, slope, self._variance(noise, weight), self.settings.steps), noise

    def _variance(self, noise: Tensor, weight: Tensor) -> Tensor:
        """Of the values `(n, k + m)`, by the diagonal of the mean curvature."""
        return 1.0 / (self.curvature() / noise + weight)

    def _precision(
        self,
        values: Tensor,
        made: Tensor,
        pull: Callable[[Tensor], Tensor],
        noise: Tensor,
        weight: Tensor,
        behind: Filter | None,
    ) -> Callable[[Tensor], Tensor]:
        """The product of J^T J / noise + weight with directions `(n, k + m)`."""

        def product(directions: Tensor) -> Tensor:
            unit = directions.square().mean(dim=1, keepdim=True).sqrt().clamp_min(1e-30) / SECANT
            change = self._made(values + directions / unit, behind) - made
            return pull(change * unit[:, :, None, None]) / noise + weight * directions

        return product

    def curvature(self) -> Tensor:
        """The diagonal of J^T J, mean over latents with random keys, `(k + m,)`; estimated once (Hutchinson 1990)."""
        if self._curvature is None:
            fingerprint, total = self.space.fingerprint, torch.zeros((), device=self.space.fingerprint.mean.device)
            alpha = standard_normal_latents(PROBES, len(fingerprint.other_deviation), seed=0)
            keys = standard_normal_latents(PROBES, fingerprint.bits, seed=1) > 0
            values = torch.cat([alpha, keys.float()], dim=1).to(fingerprint.mean)
            for first in range(0, PROBES, self.settings.batch):
                made, pull = self._linearised(values[first : first + self.settings.batch], None)
                probes = standard_normal_latents(len(made), made[0].numel(), seed=2, start=first).view(made.shape)
                total = total + pull(probes.to(made)).square().sum(dim=0)
            self._curvature = total / PROBES
        return self._curvature

    def _linearised(self, values: Tensor, behind: Filter | None) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
        """Images of values `(n, k + m)`, and the product of J^T with images; a backward pass each."""
        with torch.inference_mode(False), torch.enable_grad():
            at = values.clone().requires_grad_(True)
            made = self._made(at, behind)

        def product(images: Tensor) -> Tensor:
            self.watch.check()
            with torch.inference_mode(False):
                (found,) = torch.autograd.grad(made, at, images.clone(), retain_graph=True)
            return found

        return made.detach(), product

    def _made(self, values: Tensor, behind: Filter | None) -> Tensor:
        self.watch.check()
        bits = self.space.fingerprint.bits
        shown = self.space.shown(values[:, :-bits], values[:, -bits:])
        return shown if behind is None else behind(shown)


def conjugate_gradients(
    product: Callable[[Tensor], Tensor], target: Tensor, preconditioner: Tensor, steps: int
) -> Tensor:
    """Solve A x = b for each row by a fixed number of preconditioned conjugate-gradient steps.

    Rows that are solved before stay as they are.

    Args:
        product: of the symmetric positive definite A of each row with vectors, `(n, w)` to `(n, w)`.
        target: b, `(n, w)`.
        preconditioner: positive diagonal that approximates the inverse of A, `(n, w)` or `(w,)`.
        steps: at least 1; w of them solve the equations, but for rounding.

    Returns:
        x, `(n, w)`.
    """
    solution, left = torch.zeros_like(target), target
    turned = preconditioner * left
    direction, power = turned, (left * turned).sum(dim=1, keepdim=True)
    for _ in range(steps):
        ahead = product(direction)
        along = (direction * ahead).sum(dim=1, keepdim=True)
        length = torch.where(along > 0.0, power / along, 0.0)
        solution, left = solution + length * direction, left - length * ahead
        turned = preconditioner * left
        following = (left * turned).sum(dim=1, keepdim=True)
        direction = turned + torch.where(power > 0.0, following / power, 0.0) * direction
        power = following
    return solution

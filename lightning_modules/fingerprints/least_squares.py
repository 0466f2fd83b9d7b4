"""Reading a key by least squares: Levenberg-Marquardt on latent and key together, with the evidence for each bit.

A latent has a hundred coordinates and an image thousands of pixels, so one Jacobian tells at once how every coordinate
and every bit shows in the image. Gradient descent, which the paper uses, creeps along the same valleys for thousands of
steps: the key lies on the axes of least variance, whose slopes are the faintest.

The key is searched for as numbers without bounds rather than through a sigmoid, whose slope vanishes where it should
decide. Latents are pulled to the mean as strongly as the residual is noisy (the posterior's mode for alpha ~ N(0, I)),
and the residual's variance is measured as the search goes on, so that clean and damaged images need no setting.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.func import jacfwd, vmap
from torch.nn.attention import SDPBackend, sdpa_kernel

from lightning_modules.fingerprints.decoding import KeyEstimate
from lightning_modules.fingerprints.fingerprint import Fingerprint
from lightning_modules.fingerprints.losses import ImageLoss

KEY_CENTRE, KEY_DEVIATION = 0.5, 0.5  # of a fair bit
FLOOR = (1.0 / 255.0) ** 2 / 12.0
"""Variance of rounding to 8 bits: no saved image's residual is smaller."""


@dataclass(frozen=True)
class LeastSquaresSettings:
    """How a least-squares search is run.

    Attributes:
        iterations: most Jacobians computed.
        damping: first damping, relative to the diagonal of the normal equations.
        tolerance: relative fall of the cost below which an image is done.
        batch: images whose Jacobians are computed together.
    """

    iterations: int = 12
    damping: float = 1e-2
    tolerance: float = 1e-3
    batch: int = 8

    def __post_init__(self) -> None:
        """Refuse settings that cannot be run."""
        if min(self.iterations, self.batch) < 1 or not self.damping > 0.0 or not 0.0 <= self.tolerance < 1.0:
            raise ValueError(f"found {self}, expected iterations and batch of at least 1, damping > 0, tolerance < 1")


class LeastSquaresDecoder:
    """Improves given starts by Levenberg-Marquardt.

    Args:
        synthesize: latents `(n, d)` to images `(n, 3, H, W)`, differentiable in forward mode.
        fingerprint: the fingerprint of that generator, on its device.
        loss: an image loss whose distance is the mean squared difference of its features.
        settings: how to run.
    """

    def __init__(
        self,
        synthesize: Callable[[Tensor], Tensor],
        fingerprint: Fingerprint,
        loss: ImageLoss,
        settings: LeastSquaresSettings | None = None,
    ) -> None:
        self.synthesize = synthesize
        self.fingerprint = fingerprint
        self.loss = loss
        self.settings = LeastSquaresSettings() if settings is None else settings
        self.axes = len(fingerprint.other_deviation)

    def decode(self, images: Tensor) -> KeyEstimate:
        """Decode images `(n, 3, H, W)` in [0, 1] from the mean latent and an undecided key."""
        return self.refine(images, images.new_zeros(len(images), self.axes), images.new_zeros(len(images), 1))

    @torch.no_grad()
    def refine(self, images: Tensor, alpha: Tensor, logits: Tensor) -> KeyEstimate:
        """Decode from given starts.

        Args:
            images: `(n, 3, H, W)` in [0, 1].
            alpha: `(n, k)` in standard deviations.
            logits: key logits `(n, m)`, or anything that expands to it.

        Returns:
            Log odds of the bits under the Gaussian approximation, and the mean squared residual. They are too sure
            where residuals depend on each other, as those of three equal colours do: calibrate before use as odds.
        """
        with torch.inference_mode(False):
            images = images.detach().clone()
            key = torch.sigmoid(logits).expand(len(images), self.fingerprint.bits)
            start = torch.cat([alpha, key], dim=1).clone()
            parts = [
                self._search(values, image)
                for values, image in zip(
                    torch.split(start, self.settings.batch), torch.split(images, self.settings.batch), strict=True
                )
            ]
            values, evidence, residual = (torch.cat(group) for group in zip(*parts, strict=True))
            return KeyEstimate(evidence, residual, self._latents(values))

    def _search(self, values: Tensor, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Values found `(n, k + m)`, evidence of the bits `(n, m)` and mean squared residual `(n,)` of one batch."""
        target = self._flat(images)
        weight, centre = self._prior(values)
        made = self._made(values)
        variance = (target - made).square().mean(dim=1).clamp_min(FLOOR)
        damping = torch.full_like(variance, self.settings.damping)
        active = torch.ones_like(variance, dtype=torch.bool)
        normal = torch.zeros(0)
        for _ in range(self.settings.iterations):
            jacobian = self._jacobian(values)  # (n, q, k + m)
            pull = variance[:, None] * weight
            normal = jacobian.mT @ jacobian + torch.diag_embed(pull)
            slope = (jacobian.mT @ (target - made)[:, :, None])[:, :, 0] - pull * (values - centre)
            cost = _cost(target - made, pull, values - centre)
            damped = normal + torch.diag_embed(damping[:, None] * normal.diagonal(dim1=1, dim2=2))
            trial = values + torch.linalg.solve(damped, slope[:, :, None])[:, :, 0]
            made_trial = self._made(trial)
            cost_trial = _cost(target - made_trial, pull, trial - centre)
            better = active & (cost_trial < cost)
            values = torch.where(better[:, None], trial, values)
            made = torch.where(better[:, None], made_trial, made)
            damping = torch.where(better, damping / 5.0, damping * 5.0)
            variance = (target - made).square().mean(dim=1).clamp_min(FLOOR)
            settled = better & (cost_trial > (1.0 - self.settings.tolerance) * cost)
            active &= ~settled & (damping < 1e6)
            if not bool(active.any()):
                break
        # variance of each bit with all other coordinates free; the log odds of 1 against 0 follow from it, for a
        # Gaussian likelihood: (bit - 1/2) / variance, in which the key's own prior cancels
        spread = torch.linalg.inv(normal).diagonal(dim1=1, dim2=2)[:, self.axes :] * variance[:, None]
        evidence = (values[:, self.axes :] - KEY_CENTRE) / spread
        return values, evidence, (target - made).square().mean(dim=1)

    def _prior(self, values: Tensor) -> tuple[Tensor, Tensor]:
        """Inverse variance and mean of each coordinate, `(k + m,)`."""
        weight, centre = torch.ones_like(values[0]), torch.zeros_like(values[0])
        weight[self.axes :] = 1.0 / KEY_DEVIATION**2
        centre[self.axes :] = KEY_CENTRE
        return weight, centre

    def _jacobian(self, values: Tensor) -> Tensor:
        def one(row: Tensor) -> Tensor:
            return self._made(row[None])[0]

        with sdpa_kernel(SDPBackend.MATH):  # the fused attentions have no forward mode
            jacobian: Tensor = vmap(jacfwd(one))(values)
        return jacobian.detach()

    def _made(self, values: Tensor) -> Tensor:
        return self._flat(self.synthesize(self._latents(values)))

    def _flat(self, images: Tensor) -> Tensor:
        """Features of images as one row each, every scale weighted so that squares add up to the loss, `(n, q)`."""
        parts = [feature.flatten(1) for feature in self.loss.features(images)]
        size = parts[0].shape[1]
        return torch.cat([part * (size / part.shape[1]) ** 0.5 for part in parts], dim=1)

    def _latents(self, values: Tensor) -> Tensor:
        fingerprint = self.fingerprint
        alpha, key = values[:, : self.axes], values[:, self.axes :]
        outside = (alpha * fingerprint.other_deviation) @ fingerprint.other_axes
        return fingerprint.mean + outside + fingerprint.sigma * key @ fingerprint.key_axes.sum(dim=0)


def _cost(residual: Tensor, pull: Tensor, offset: Tensor) -> Tensor:
    return residual.square().sum(dim=1) + (pull * offset.square()).sum(dim=1)

"""Reading a key by inverting the generator: find the latent and the key that make the image (Nie et al. 2023, eq. 5).

All restarts of many images are rows of one batch, whose losses do not depend on each other; only the rows that are
still in the race are computed. The target's features are computed once, the generator's weights carry no gradient.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from scipy.stats import qmc
from torch import Tensor

from lightning_modules.fingerprints.decoders.base import (
    UNWATCHED,
    DecoderParts,
    KeyEstimate,
    NamedDecoder,
    SimulatedAttack,
    Watch,
)
from lightning_modules.fingerprints.decoders.losses import ImageLoss
from lightning_modules.fingerprints.fingerprint import Fingerprint
from lightning_modules.fingerprints.settings import at_least

BETAS = (0.9, 0.999)
EPSILON = 1e-8


@dataclass(frozen=True)
class InversionSettings:
    """How an inversion is run; the defaults are the paper's for StyleGAN2.

    Attributes:
        starts: restarts of each image, one at each point of a Latin hypercube within one standard deviation.
        steps: updates of Adam.
        learning_rate: of the first update.
        decay: the learning rate falls as `exp(-decay (t + 1))`.
        penalty: lambda, the factor on how far alpha leaves three standard deviations (per axis, summed).
        whitened: search alpha in units of its standard deviations instead of in those of the latent.
        survivors: pairs (step, restarts): from that step on only so many restarts of each image, those of least loss.
        patience: stop an image whose best loss has not fallen by `tolerance` in so many updates; 0 never stops.
        tolerance: relative fall of the loss that counts.
        batch: rows (images times restarts) computed together; of a whole image at least, where they fit.
        draws: attacks averaged over in each update, where an attack is simulated.
        seed: of the starts and of the simulated attacks.
    """

    starts: int = 20
    steps: int = 2000
    learning_rate: float = 0.2
    decay: float = 0.001
    penalty: float = 0.1
    whitened: bool = False
    survivors: tuple[tuple[int, int], ...] = ()
    patience: int = 0
    tolerance: float = 1e-3
    batch: int = 20
    draws: int = 1
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse settings that cannot be run."""
        for name in ("starts", "steps", "batch", "draws"):
            at_least(name, getattr(self, name), 1)
        stages = [(0, self.starts), *self.survivors]
        if any(b[0] <= a[0] or not 1 <= b[1] < a[1] for a, b in pairwise(stages)):
            raise ValueError(
                f"found survivors {self.survivors}, expected rising steps with falling restarts below {self.starts}"
            )


@dataclass
class Rows:
    """The variables of all rows still in the race, and Adam's moments, after `step` updates."""

    image: Tensor  # int64 (r,), which image a row belongs to
    values: Tensor  # float32 (r, k + m): alpha, then the key's logits
    first: Tensor  # float32 (r, k + m), Adam's first moment
    second: Tensor  # float32 (r, k + m), Adam's second moment
    loss: Tensor  # float32 (r,) at the last update
    best: Tensor  # float32 (r,), least loss so far
    waited: Tensor  # int64 (r,), updates since the loss last fell
    step: int = 0

    def take(self, index: Tensor) -> Rows:
        """The rows of an index, as copies."""
        return Rows(**{name: getattr(self, name)[index] for name in ROW_TENSORS}, step=self.step)


ROW_TENSORS = ("image", "values", "first", "second", "loss", "best", "waited")


class InversionDecoder(NamedDecoder):
    """Decodes keys by optimisation, restarts chosen by their loss alone.

    Args:
        synthesize: latents `(n, d)` to images `(n, 3, H, W)`, differentiable; its weights must carry no gradient.
        fingerprint: the fingerprint of that generator, on its device.
        loss: the distance to minimise, on its device.
        settings: how to run.
        attack: post-processing to simulate on what is synthesised, where the attributor knows or guesses it.
        watch: told of each finished image, asked before each update.
    """

    settings_class = InversionSettings
    simulates_attacks = True

    def __init__(
        self,
        synthesize: Callable[[Tensor], Tensor],
        fingerprint: Fingerprint,
        loss: ImageLoss,
        settings: InversionSettings | None = None,
        attack: SimulatedAttack | None = None,
        watch: Watch = UNWATCHED,
    ) -> None:
        self.synthesize, self.fingerprint, self.loss, self.attack = synthesize, fingerprint, loss, attack
        self.settings, self.watch = settings or InversionSettings(), watch
        self.axes = len(fingerprint.other_deviation)

    @classmethod
    def build(cls, parts: DecoderParts, settings: InversionSettings) -> InversionDecoder:
        """The paper's decoder: Adam from 20 points of a Latin hypercube, 2000 steps (section 3.2)."""
        return cls(parts.generator.synthesize, parts.fingerprint, parts.loss, settings, parts.attack, parts.watch)

    @classmethod
    def images_at_once(cls, settings: InversionSettings) -> int:
        """As many as have all their restarts in one batch."""
        return max(1, settings.batch // settings.starts)

    def decode(self, images: Tensor) -> KeyEstimate:
        """Decode images `(n, 3, H, W)` in [0, 1] from the starts of a Latin hypercube; works in inference mode too."""
        answers = []
        for some in torch.split(images, self.images_at_once(self.settings)):
            answers.append(self.refine(some, *self._hypercube(some)))
            self.watch.advance(len(some))
        return KeyEstimate.joined(answers)

    def survivors(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Where the restarts that are kept to the end arrive, for a search that goes on from all of them.

        Returns alpha `(n, s, k)` in the units of the search and key logits `(n, s, m)`.
        """
        kept = [restarts for step, restarts in self.settings.survivors if step < self.settings.steps]
        count = kept[-1] if kept else self.settings.starts
        rows, _ = self._descend(images, *self._hypercube(images))
        values = _best_rows(rows, count).values.view(len(images), count, -1)
        return values[:, :, : self.axes], values[:, :, self.axes :]

    def refine(self, images: Tensor, alpha: Tensor, logits: Tensor) -> KeyEstimate:
        """Decode from given starts: the restart of least loss of each image.

        Args:
            images: `(n, 3, H, W)` in [0, 1].
            alpha: `(n, starts, k)`, in standard deviations where the search is whitened, else in the latent's units.
            logits: key logits `(n, starts, m)`, or anything that expands to it.
        """
        return self._estimate(*self._descend(images, alpha, logits))

    def _hypercube(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Alpha of the starts `(n, starts, k)`, and undecided keys."""
        starts = latin_hypercube(self.settings.starts, self.axes, self.settings.seed).to(images)
        alpha = starts if self.settings.whitened else starts * self.fingerprint.other_deviation
        return alpha.expand(len(images), -1, -1), images.new_zeros(len(images), len(alpha), 1)

    def _descend(self, images: Tensor, alpha: Tensor, logits: Tensor) -> tuple[Rows, list[Tensor]]:
        """All rows that reach the end, and the targets' features."""
        with torch.inference_mode(False), torch.enable_grad():
            images = images.detach().clone()
            targets = [feature.detach() for feature in self._in_parts(self.loss.features, images)]
            n, starts = alpha.shape[:2]
            rows = self._rows(alpha.detach().clone(), logits.detach().clone(), n, starts)
            done: list[Rows] = []
            stops = [step for step, _ in self.settings.survivors if step < self.settings.steps] + [self.settings.steps]
            kept = dict(self.settings.survivors)
            for stop in stops:
                rows, finished = self._run(rows, targets, stop)
                done += finished
                if stop in kept and len(rows.image):
                    rows = _best_rows(rows, kept[stop])
            return _joined([*done, rows]), targets

    def _rows(self, alpha: Tensor, logits: Tensor, n: int, starts: int) -> Rows:
        logits = logits.expand(n, starts, self.fingerprint.bits)
        values = torch.cat([alpha, logits], dim=2).flatten(0, 1)
        image = torch.arange(n, device=values.device).repeat_interleave(starts)
        infinite = torch.full((len(values),), float("inf"), device=values.device)
        zeros = torch.zeros_like(values)
        return Rows(image, values, zeros, zeros.clone(), infinite, infinite.clone(), torch.zeros_like(image))

    def _run(self, rows: Rows, targets: list[Tensor], stop: int) -> tuple[Rows, list[Rows]]:
        """Update all rows up to a step; the rows of images that have settled are returned apart."""
        parts, finished = [], []
        every = torch.arange(len(rows.image), device=rows.image.device)
        for index in torch.split(every, self.settings.batch):
            part = rows.take(index)
            while part.step < stop and len(part.image):
                self._update(part, targets)
                if self.settings.patience and bool((settled := part.waited >= self.settings.patience).any()):
                    finished.append(part.take(settled.nonzero()[:, 0]))
                    part = part.take((~settled).nonzero()[:, 0])
            parts.append(part)
        return _joined(parts), finished

    def _update(self, rows: Rows, targets: list[Tensor]) -> None:
        """One update of Adam on every row."""
        self.watch.check()
        settings = self.settings
        values = rows.values.detach().requires_grad_(True)
        loss = self._losses(values, rows.image, [target[rows.image] for target in targets], rows.step)
        (gradient,) = torch.autograd.grad(loss.sum(), values)
        with torch.no_grad():
            rows.loss = loss.detach()
            fell = rows.loss < rows.best * (1.0 - settings.tolerance)
            rows.waited = torch.where(fell, 0, rows.waited + 1)
            rows.best = torch.where(fell, rows.loss, rows.best)
            rows.step += 1
            rows.first.lerp_(gradient, 1.0 - BETAS[0])
            rows.second.lerp_(gradient.square(), 1.0 - BETAS[1])
            rate = settings.learning_rate * float(np.exp(-settings.decay * rows.step))
            first = rows.first / (1.0 - BETAS[0] ** rows.step)
            second = rows.second / (1.0 - BETAS[1] ** rows.step)
            rows.values = rows.values - rate * first / (second.sqrt() + EPSILON)

    def _losses(self, values: Tensor, image: Tensor, targets: list[Tensor], step: int) -> Tensor:
        """Loss of each row `(r,)`: distance of what it makes to its target, and the penalty on alpha."""
        made = self.synthesize(self._latents(values))
        if self.attack is None:
            distance = self.loss.distance(self.loss.features(made), targets)
        else:
            distance = torch.zeros_like(values[:, 0])
            for draw in range(self.settings.draws):
                seeds = (self.settings.seed * 1_000_003 + step) * self.settings.draws + draw + 7_919 * image
                attacked = self.attack(made.clamp(0.0, 1.0), seeds)
                distance = distance + self.loss.distance(self.loss.features(attacked), targets) / self.settings.draws
        alpha = values[:, : self.axes]
        deviation = torch.ones_like(alpha[0]) if self.settings.whitened else self.fingerprint.other_deviation
        return distance + self.settings.penalty * (alpha.abs() - 3.0 * deviation).relu().sum(dim=1)

    def _latents(self, values: Tensor) -> Tensor:
        """Latents `(r, d)` of rows: `mean + U^T alpha + sigma V^T sigmoid(k)`."""
        fingerprint = self.fingerprint
        alpha, logits = values[:, : self.axes], values[:, self.axes :]
        if self.settings.whitened:
            alpha = alpha * fingerprint.other_deviation
        return fingerprint.mean + alpha @ fingerprint.other_axes + fingerprint.offset(torch.sigmoid(logits))

    def _estimate(self, rows: Rows, targets: list[Tensor]) -> KeyEstimate:
        """The row of least loss of each image, by the loss of the values it ended with."""
        with torch.no_grad():
            parts = zip(*(torch.split(each, self.settings.batch) for each in (rows.values, rows.image)), strict=True)
            rows.loss = torch.cat([self._losses(v, i, [target[i] for target in targets], rows.step) for v, i in parts])
            best = _best_rows(rows, 1)
            return KeyEstimate(best.values[:, self.axes :], best.loss, self._latents(best.values))

    def _in_parts(self, function: Callable[[Tensor], list[Tensor]], images: Tensor) -> list[Tensor]:
        with torch.no_grad():
            parts = [function(part) for part in torch.split(images, self.settings.batch)]
        return [torch.cat(group) for group in zip(*parts, strict=True)]


def latin_hypercube(starts: int, axes: int, seed: int) -> Tensor:
    """Cell centres of a Latin hypercube on [-1, 1]^axes, float32 `(starts, axes)` (section 3.2 of the paper)."""
    points = qmc.LatinHypercube(axes, scramble=False, rng=np.random.default_rng(seed)).random(starts)
    return torch.from_numpy(2.0 * points - 1.0).float()


def _joined(groups: list[Rows]) -> Rows:
    """Rows of several groups as one, at the last group's step."""
    joined = {name: torch.cat([getattr(group, name) for group in groups]) for name in ROW_TENSORS}
    return Rows(**joined, step=groups[-1].step)


def _best_rows(rows: Rows, restarts: int) -> Rows:
    """The rows of least loss, so many of each image."""
    by_loss = rows.loss.argsort(stable=True)
    grouped = by_loss[rows.image[by_loss].argsort(stable=True)]
    image = rows.image[grouped]
    first = torch.searchsorted(image, image)  # where each row's image begins
    rank = torch.arange(len(image), device=image.device) - first
    return rows.take(grouped[rank < restarts])

"""The network that reads keys: how it is made for a fingerprint, what it begins with, its calibration."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lightning_modules.fingerprints.fingerprint import Fingerprint
from lightning_modules.networks import SourceNetwork


class CalibratedNetwork(nn.Module, ABC):
    """An image to the logits of its key and to its latent's coordinates outside the key, with a calibration.

    Args:
        bits: length m of a key.
        axes: number k of coordinates to estimate, those of largest deviation first.
    """

    log_temperature: Tensor
    alpha_error: Tensor

    def __init__(self, bits: int, axes: int) -> None:
        super().__init__()
        self.bits, self.axes = bits, axes
        self.begun = False  # whether it has the weights of another training
        self.register_buffer("log_temperature", torch.zeros(()))
        self.register_buffer("alpha_error", torch.ones(axes))

    @abstractmethod
    def answer(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Logits `(n, m)` without temperature, and alpha `(n, k)`, of images `(n, 3, H, W)` in [0, 1]."""

    @property
    def quicker(self) -> CalibratedNetwork:
        """A network that costs less, to look through many readings with; itself where there is none."""
        return self

    def take_fingerprint(self, fingerprint: Fingerprint, anew: bool) -> None:  # most need none
        """Know where keys lie; `anew` where a training begins, with weights that follow from it unless `begun`."""

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Map images `(n, 3, H, W)` in [0, 1] to key logits `(n, m)` and alpha in standard deviations `(n, k)`.

        The temperature acts in evaluation mode alone, so that calibrating between epochs leaves the training as it is.
        """
        logits, alpha = self.answer(images)
        return logits if self.training else logits / self.log_temperature.exp(), alpha

    def calibrate(self, logits: Tensor, keys: Tensor, alpha_error: Tensor) -> None:
        """Set the temperature that makes logits log odds (Guo et al. 2017), and how far alpha is to be trusted.

        Args:
            logits: what `forward` gave in evaluation mode for images it was not trained on, `(n, m)`.
            keys: the keys of those images, bool `(n, m)`.
            alpha_error: its alpha less the true one, in standard deviations, `(n, k)`.
        """
        # of the logits without the last temperature: changes of it would add up while a network has learned nothing
        temperature = fit_temperature(logits * self.log_temperature.exp(), keys)
        self.log_temperature.fill_(math.log(temperature))
        self.alpha_error.copy_(alpha_error.square().mean(dim=0).clamp_min(1e-4))


class KeyNetwork(CalibratedNetwork):
    """A network of timm: an image to the logits of its key and to its latent's coordinates outside the key.

    Knowing where the image lies among all images is what separates a key from an unusual garment or face; the second
    head makes the features carry it, and gives an inversion its start. Both heads see several levels of the backbone
    with their positions: what a key changes is a faint pattern in place, which pooling over the image would blur away.

    Args:
        bits: length m of a key.
        axes: number k of coordinates to estimate, those of largest deviation first.
        backbone: a timm network.
        stem, weights: see `networks.SourceNetwork`.
        image_size: height and width of the images in pixels.
        levels: stages of the backbone that the heads see, as timm counts them.
        grid: levels of more positions than this on a side are averaged down to it.
    """

    def __init__(
        self,
        bits: int,
        axes: int,
        backbone: str = "resnet18",
        stem: str = "patch",
        weights: str = "none",
        image_size: int = 32,
        levels: Sequence[int] = (1, 2, 3),
        grid: int = 8,
    ) -> None:
        super().__init__(bits, axes)
        self.levels, self.grid = list(levels), grid
        self.backbone: Any = SourceNetwork(backbone, 0, stem, weights).backbone
        self.backbone.prune_intermediate_layers(self.levels, prune_head=True)
        with torch.no_grad():
            width = self.eval().features(torch.zeros(1, 3, image_size, image_size)).shape[1]
        self.train()
        self.heads = nn.Linear(width, bits + axes)

    def answer(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """See `CalibratedNetwork`."""
        output = self.heads(self.features(images))
        return output[:, : self.bits], output[:, self.bits :]

    def features(self, images: Tensor) -> Tensor:
        """All levels of images `(n, 3, H, W)` in [0, 1], position by position, `(n, f)`."""
        maps = self.backbone.forward_intermediates(images * 2.0 - 1.0, indices=self.levels, intermediates_only=True)
        return torch.cat([self._shrunk(level).flatten(1) for level in maps], dim=1)

    def _shrunk(self, level: Tensor) -> Tensor:
        return F.adaptive_avg_pool2d(level, self.grid) if level.shape[-1] > self.grid else level


def fit_temperature(logits: Tensor, keys: Tensor) -> float:
    """The temperature of least cross-entropy, by golden-section search in its logarithm over [1/20, 20]."""
    low, high = torch.log(torch.tensor([1.0 / 20.0, 20.0], dtype=torch.float64)).tolist()
    values, truth = logits.detach().double(), keys.double()

    def entropy(log_temperature: float) -> float:
        scaled = values * float(torch.exp(torch.tensor(-log_temperature, dtype=torch.float64)))
        return float(F.binary_cross_entropy_with_logits(scaled, truth))

    golden = (5.0**0.5 - 1.0) / 2.0
    for _ in range(40):
        a, b = high - golden * (high - low), low + golden * (high - low)
        low, high = (low, b) if entropy(a) < entropy(b) else (a, high)
    return float(torch.exp(torch.tensor((low + high) / 2.0)))

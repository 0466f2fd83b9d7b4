"""What a fitted attributor knows beside its networks: how sure it may be, and what images of its sources look like."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lightning_modules.common.weights import content_hash
from lightning_modules.networks.feature_space import FeatureSpace
from lightning_modules.networks.gallery import Gallery

MOST_TRAINING, MOST_VALIDATION, MOST_IMPOSTORS = 4096, 8192, 2048
"""Images that the space of features, the thresholds, and that of the gallery are fitted to, at most."""
UNKNOWN_SCORES = ("probability", "energy", "features")
"""How unlike the trained sources an image is: largest probability, energy, and distance of its features to those of
training images (`FeatureSpace.distance`). Every score is larger for what is less alike."""
DECIDING = "features"
"""The score by which `predict` calls an image unknown; without features the energy."""


@dataclass(frozen=True)
class Answers:
    """What the attributor's network says of images, before any calibration.

    Attributes:
        logits: (N, K); of a fusion the logarithm of the product of experts.
        features: (N, d).
        energy: (N,) log sum exp of the network's own logits; of a fusion, of the sum of those of its branches.
    """

    logits: Tensor
    features: Tensor
    energy: Tensor

    @classmethod
    def join(cls, parts: Sequence[Answers]) -> Answers:
        """One after the other."""
        return cls(*(torch.cat([getattr(part, name) for part in parts]) for name in ("logits", "features", "energy")))


class Reference:
    """A temperature, the space of training features, scores of validation images, and a gallery.

    It is fitted once the training ends (`fit`); until then only the temperature is (`temperature`). A checkpoint of an
    earlier version has none of it: then the temperature is 1 and there are no thresholds.

    Attributes:
        temperature: Logits are divided by it; 1 where there were no validation images.
        space: Of features; None before `fit`.
        scores: Of validation images by name, (V,) each: those of ``UNKNOWN_SCORES``, ``label``, and ``own``, the
            logarithm of the probability of their own source before the temperature; also calibrated ``logits`` (V, K),
            and features of the first of them as galleries hold them, ``unit`` (v, r).
        gallery: Enrolled sources.
    """

    def __init__(self) -> None:
        self.temperature = 1.0
        self.space: FeatureSpace | None = None
        self.scores: dict[str, Tensor] = {}
        self.gallery = Gallery()

    def forget_gallery(self) -> None:
        """Features of enrolled images are of these networks; a training makes others."""
        self.gallery = Gallery()

    def calibrated(self, logits: Tensor) -> Tensor:
        """Logits (N, K) divided by the temperature."""
        return logits / self.temperature

    def fit(self, training: tuple[Answers, Tensor], validation: tuple[Answers, Tensor] | None) -> None:
        """Learn from answers and labels of training images, and of images that nothing was trained on."""
        self.space = FeatureSpace.fit(training[0].features, training[1])
        self.scores = {}
        if validation is not None:
            answers, labels = validation
            own = answers.logits.double().log_softmax(dim=1).gather(1, labels[:, None].to(answers.logits.device))[:, 0]
            found = {"own": own, **self.unknown_scores(answers)}
            self.scores = {name: values.float().cpu() for name, values in found.items()}
            self.scores["label"] = labels.cpu().to(torch.int16)
            self.scores["unit"] = self.space.unit(answers.features[:MOST_IMPOSTORS]).half().cpu()
            self.scores["logits"] = self.calibrated(answers.logits.double()).float().cpu()

    def unknown_scores(self, answers: Answers) -> dict[str, Tensor]:
        """(N,) float64 by name of ``UNKNOWN_SCORES``, those of features only after `fit`."""
        probability = self.calibrated(answers.logits.double()).softmax(dim=1).amax(dim=1)
        found = {"probability": -probability, "energy": -answers.energy.double()}
        if self.space is not None:
            found["features"] = self.space.distance(answers.features)
        return found

    @property
    def thresholded(self) -> tuple[str, ...]:
        """Names of the scores that there are."""
        return UNKNOWN_SCORES if self.space is not None else UNKNOWN_SCORES[:-1]

    @property
    def deciding(self) -> str:
        """Name of the score that calls an image unknown."""
        return DECIDING if self.space is not None else "energy"

    def validation(self, name: str) -> NDArray[np.float64]:
        """A score of validation images, (V,); empty without any."""
        return self.scores.get(name, torch.empty(0)).double().numpy()

    @property
    def validation_labels(self) -> NDArray[np.int64]:
        """(V,)."""
        return self.scores.get("label", torch.empty(0)).long().numpy()

    @property
    def validation_logits(self) -> NDArray[np.float64]:
        """Calibrated, (V, K)."""
        return self.scores.get("logits", torch.empty(0, 1)).double().numpy()

    def to_checkpoint(self) -> dict[str, Any]:
        """All of it as plain values and tensors."""
        space = None if self.space is None else self.space.to_checkpoint()
        gallery = self.gallery.to_checkpoint()
        return {"temperature": self.temperature, "space": space, "scores": dict(self.scores), "gallery": gallery}

    def load(self, saved: Mapping[str, Any] | None) -> None:
        """The inverse of `to_checkpoint`; of an earlier version's checkpoint (None) an unfitted one."""
        saved = saved or {}
        self.temperature = float(saved.get("temperature", 1.0))
        space = saved.get("space")
        self.space = None if space is None else FeatureSpace.load(space)
        self.scores = dict(saved.get("scores", {}))
        self.gallery = Gallery.load(saved.get("gallery"))

    def identity(self) -> str:
        """Hash of all that a test's numbers depend on; an enrolled source changes none of them."""
        tensors = {**self.scores, "temperature": torch.tensor(self.temperature, dtype=torch.float64)}
        if self.space is not None:
            tensors |= {f"space.{name}": each for name, each in self.space.to_checkpoint().items()}
        return content_hash(tensors)


def finite_or_none(value: float) -> float | None:
    """For JSON, which has no infinity."""
    return value if math.isfinite(value) else None

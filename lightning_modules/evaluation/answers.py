"""What an attributor says of images, the same in validation, test and predict; thresholds and verdicts over sets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lightning_modules.common.distributed import gather_objects
from lightning_modules.metrics.calibration import fit_temperature
from lightning_modules.metrics.open_set import log_odds, threshold_at
from lightning_modules.metrics.set_test import SetVerdict, set_verdict
from lightning_modules.networks.controlled import MAIN, ControlledNetworks, Outputs
from lightning_modules.networks.reference import (
    MOST_TRAINING,
    MOST_VALIDATION,
    Answers,
    Reference,
)
from lightning_modules.representations.batches import Representations, Represented

Validated = tuple[Tensor, Tensor, Tensor]
"""Of a batch: twice the index, and one more of attacked images; what the network says (logits; of a fusion those of its
branches alone, (N, B, K)); label."""


class Answering:
    """Answers of an attributor's networks to what they see of images.

    Args:
        represent: What the networks see.
        networks: The attributor and its controls.
        reference: What is known beside them.
        flip: Answer for an image and its mirror image together.
    """

    def __init__(
        self, represent: Representations, networks: ControlledNetworks, reference: Reference, flip: bool
    ) -> None:
        self.represent, self.networks, self.reference, self.flip = represent, networks, reference, flip

    def outputs(self, found: Represented, names: Sequence[str] | None = None) -> Outputs:
        """Logits and features of the named networks, by default of all."""
        mirrored = self.represent.mirrored(found.tensors) if self.flip else None
        return self.networks.answers(found.tensors, names, mirrored)

    def main(self, found: Represented) -> Answers:
        """What the attributor itself says."""
        return self.of_outputs(self.outputs(found, [MAIN]))

    def of_outputs(self, outputs: Outputs) -> Answers:
        """What the attributor itself says, of outputs that hold its own."""
        logits, features = outputs[MAIN]
        return Answers(logits, features, self.networks.energy(logits, features))

    def to_validate(self, batch: Mapping[str, Any], answers: Answers, attacked: bool = False) -> Validated:
        """What is kept of a batch of validation images."""
        fusion = self.networks.fusion
        said = answers.logits if fusion is None else fusion.alone(answers.features).transpose(0, 1)
        return 2 * batch["index"].cpu() + attacked, said.cpu(), batch["label"].cpu()

    def fit_on_validation(self, mine: Sequence[Validated]) -> None:
        """Weigh the branches of a fusion and set the temperature by validation images of all processes, by index.

        Attacked images count for the weights alone: the branch that is best on clean images may withstand least.
        Every process must call it, and each ends up with the same numbers.
        """
        found = [part for share in gather_objects(list(mine)) for part in share]
        if not found:
            return
        index, said, labels = (torch.cat(parts) for parts in zip(*found, strict=True))
        order = index.argsort()
        said, labels = said[order], labels[order]
        if (fusion := self.networks.fusion) is not None:
            fusion.fit_weights(said.transpose(0, 1), labels)
            said = fusion.together(said.transpose(0, 1).to(fusion.weights.device)).cpu()
        clean = index[order] % 2 == 0
        self.reference.temperature = fit_temperature(said[clean], labels[clean])

    @torch.inference_mode()
    def fit_reference(self, data: Any, device: torch.device) -> None:
        """Fit temperature, space of features and validation scores, to training and validation images of the data.

        Every process looks at the same images in the same batches, so that each ends up with the same numbers.
        """
        self.networks.eval()
        training = self._answers_of(data, "train", MOST_TRAINING, device)
        validation = self._answers_of(data, "val", MOST_VALIDATION, device)
        self.networks.train()
        if validation is not None:
            self.reference.temperature = fit_temperature(validation[0].logits, validation[1])
        if training is not None:
            self.reference.fit(training, validation)

    def _answers_of(self, data: Any, split: str, most: int, device: torch.device) -> tuple[Answers, Tensor] | None:
        if not sum(data.counts(split).values()):
            return None
        parts, labels = [], []
        for batch in data.sample_batches(split, most):
            found = self.represent({**batch, "image": batch["image"].to(device)}, self.represent.main)
            answers = self.main(found)
            parts.append(Answers(*(each.float().cpu() for each in (answers.logits, answers.features, answers.energy))))
            labels.append(batch["label"].cpu())
        return Answers.join(parts), torch.cat(labels)


# --- thresholds and verdicts -----------------------------------------------------------------------------------------


def is_real(sources: Sequence[str]) -> np.ndarray[Any, np.dtype[np.bool_]]:
    """Which sources are reals, (K,)."""
    return np.array([source.startswith("real") for source in sources], dtype=np.bool_)


def detects(sources: Sequence[str]) -> bool:
    """Whether generated images can be told from reals: both are among the sources."""
    real = is_real(sources)
    return bool(real.any()) and not bool(real.all())


def detection_threshold(reference: Reference, sources: Sequence[str]) -> float:
    """Of the log odds of *not real*: at most 5 % of real images lie above it. Infinite where too few are known."""
    logits, labels = reference.validation_logits, reference.validation_labels
    real = is_real(sources)
    if not len(labels):
        return float("inf")
    return threshold_at(log_odds(logits, ~real)[real[labels]])


def unknown_threshold(reference: Reference, name: str) -> float:
    """Of a score of ``UNKNOWN_SCORES``: at most 5 % of images of trained sources lie above it; or infinite."""
    return threshold_at(reference.validation(name))


def set_scores(reference: Reference, logits: Tensor, unlike: Tensor, sources: Sequence[str]) -> dict[str, Any]:
    """Scores (m, 2) of images by trained source: log probability before the temperature, and likeness to any source.

    Calibrated logits are (m, K); `unlike` (m,) is the score that decides what is unknown.
    """
    logs = (logits.double() * reference.temperature).log_softmax(dim=1).cpu().numpy()
    likeness = -unlike.double().cpu().numpy()
    return {source: np.stack([logs[:, place], likeness], axis=1) for place, source in enumerate(sources)}


def verdict_over_set(reference: Reference, logits: Tensor, unlike: Tensor, sources: Sequence[str]) -> SetVerdict | None:
    """Which source made all of some images (`metrics.set_test.set_verdict`); None without validation images of each."""
    labels = reference.validation_labels
    if set(labels.tolist()) != set(range(len(sources))):
        return None
    own, likeness = reference.validation("own"), -reference.validation(reference.deciding)
    pairs = np.stack([own, likeness], axis=1)
    known = {source: pairs[labels == place] for place, source in enumerate(sources)}
    return set_verdict(set_scores(reference, logits, unlike, sources), known)

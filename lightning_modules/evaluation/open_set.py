"""Of a test: how well probabilities are calibrated, generated images detected, unseen sources told from others."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from torch import Tensor

from lightning_modules.evaluation.answers import detection_threshold, detects, is_real, unknown_threshold
from lightning_modules.evaluation.blocks import ALONE, EvaluationFolder, matrix, read_matrix
from lightning_modules.metrics.attribution import even_selection
from lightning_modules.metrics.calibration import CalibrationError
from lightning_modules.metrics.intervals import Estimate
from lightning_modules.metrics.open_set import detection_estimates, log_odds
from lightning_modules.metrics.retrieval import few_shot_estimates
from lightning_modules.networks.reference import Answers, Reference, finite_or_none

KNOWN, UNKNOWN = "test", "unknown"
"""Parts of a test: images of trained sources, and of those that are held out."""
GALLERY_IMAGES = 200
"""Images of each source, evenly chosen, that galleries are drawn from and asked of."""


def open_set_settings(reference: Reference, sources: list[str], unknown: list[str], seed: int) -> dict[str, Any]:
    """What the fold has to know beside `attribution_settings`, as plain values; an infinite threshold is None."""
    names = list(reference.thresholded)
    thresholds = {"detection": finite_or_none(detection_threshold(reference, sources))}
    thresholds |= {name: finite_or_none(unknown_threshold(reference, name)) for name in names}
    return {
        "temperature": reference.temperature,
        "calibration": reference.identity(),
        "thresholds": thresholds,
        "unknown_sources": unknown,
        "unknown_scores": names,
        "gallery_seed": seed,
    }


def open_set_columns(place: int, reference: Reference, answers: Answers) -> dict[str, pa.Array]:
    """Columns of one condition: how unlike the trained sources each image is, and features as galleries hold them."""
    scores = reference.unknown_scores(answers)
    columns = {f"{place}.unlike": matrix(torch.stack([scores[name] for name in reference.thresholded], dim=1))}
    if reference.space is not None:
        columns[f"{place}.unit"] = matrix(reference.space.unit(answers.features).half())
    return columns


class CalibrationFold:
    """Calibration and detection of the images of one condition, block by block."""

    def __init__(self, settings: Mapping[str, Any]) -> None:
        self.sources, self.temperature = settings["sources"], settings.get("temperature")
        self.threshold = _threshold(settings, "detection")
        self.errors = {"ece": CalibrationError(**ALONE), "ece_uncalibrated": CalibrationError(**ALONE)}
        self._odds: list[NDArray[np.float64]] = []
        self._real: list[NDArray[np.bool_]] = []

    def update(self, logits: Tensor, labels: Tensor) -> None:
        """Add calibrated logits (N, K) and labels (N,)."""
        if self.temperature is None:  # a test of an earlier version
            return
        self.errors["ece"].update(logits, labels)
        self.errors["ece_uncalibrated"].update(logits.double() * self.temperature, labels)
        if detects(self.sources):
            real = is_real(self.sources)
            self._odds.append(log_odds(logits.double().numpy(), ~real))
            self._real.append(real[labels.numpy()])

    def estimates(self) -> dict[str, Estimate]:
        """`ece`, `ece_uncalibrated` (before the temperature), and `detection/...` where there are reals."""
        if self.temperature is None:
            return {}
        found = {name: error.estimate() for name, error in self.errors.items()}
        found["ece"].details["temperature"] = self.temperature
        if self._odds:
            odds, real = np.concatenate(self._odds), np.concatenate(self._real)
            detected = detection_estimates(odds[~real], odds[real], self.threshold)
            found |= {f"detection/{name}": estimate for name, estimate in detected.items()}
        return found


def unknown_estimates(
    folder: EvaluationFolder, place: int, prefix: str, settings: Mapping[str, Any]
) -> dict[str, Estimate]:
    """Of one condition: `unknown/SCORE/auroc` and the like, and galleries, `unknown/5_shot/rank1`."""
    if UNKNOWN not in folder.parts:
        return {}
    scores = {part: _column(folder, part, f"{place}.unlike") for part in (KNOWN, UNKNOWN)}
    found = {}
    for position, name in enumerate(settings["unknown_scores"]):
        pair = scores[UNKNOWN][:, position], scores[KNOWN][:, position]
        for what, estimate in detection_estimates(*pair, _threshold(settings, name)).items():
            found[f"{prefix}unknown/{name}/{what}"] = estimate
    if folder.has_column(UNKNOWN, f"{place}.unit"):
        features, labels, unknown = _gallery(folder, place)
        shots = few_shot_estimates(features, labels, unknown, settings["gallery_seed"])
        found |= {f"{prefix}unknown/{name}": estimate for name, estimate in shots.items()}
    return found


def _gallery(folder: EvaluationFolder, place: int) -> tuple[NDArray[np.float32], NDArray[np.int64], NDArray[np.int64]]:
    """Features and labels of an even selection of each source, and the labels of those held out."""
    features, labels = [], []
    for part in (KNOWN, UNKNOWN):
        own = _column(folder, part, "label")
        chosen = np.zeros(len(own), dtype=bool)
        chosen[even_selection(own, GALLERY_IMAGES)] = True
        labels.append(own[chosen])
        seen = 0
        for table in folder.read(part, [f"{place}.unit"]):
            values = read_matrix(table, f"{place}.unit").float().numpy()
            features.append(values[chosen[seen : seen + len(values)]])
            seen += len(values)
    return np.concatenate(features), np.concatenate(labels), np.unique(labels[1])


def _column(folder: EvaluationFolder, part: str, name: str) -> NDArray[Any]:
    return np.concatenate([read_matrix(table, name).numpy() for table in folder.read(part, [name])])


def _threshold(settings: Mapping[str, Any], name: str) -> float:
    found = settings.get("thresholds", {}).get(name)
    return math.inf if found is None else float(found)

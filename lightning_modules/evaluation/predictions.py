"""What `predict` says of an image of unknown source beside the name: generated, unlike all sources, enrolled."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from lightning_modules.evaluation.answers import detection_threshold, detects, is_real, unknown_threshold
from lightning_modules.evaluation.blocks import read_matrix, require_finite
from lightning_modules.metrics.open_set import FALSE_POSITIVE_RATE, log_odds, threshold_at
from lightning_modules.networks.reference import Answers, Reference

LOOK_AT = "look at the weights of the checkpoint, and at the images"


def prediction_columns(answers: Answers, reference: Reference, paths: Sequence[str]) -> dict[str, Tensor]:
    """Columns of a block of images.

    `logits` (N, K) and `probabilities` calibrated; `unlike` (N,), the score that calls an image unknown; with enrolled
    sources `enrolled` (N,), the position of the nearest in the gallery, and `similarity` (N,).

    Raises:
        ValueError: logits that are not finite.
    """
    require_finite("logits", answers.logits, paths, LOOK_AT)
    logits = reference.calibrated(answers.logits.double())
    columns = {"logits": logits, "probabilities": logits.softmax(dim=1)}
    columns["unlike"] = reference.unknown_scores(answers)[reference.deciding]
    if reference.gallery.entries and reference.space is not None:
        nearest = reference.gallery.nearest(reference.space.unit(answers.features))
        names = list(reference.gallery.entries)
        columns["enrolled"] = torch.tensor([names.index(name) for name in nearest.name])
        columns["similarity"] = nearest.similarity
    return columns


@dataclass(frozen=True)
class Verdicts:
    """Turns columns of `prediction_columns` into what rows say.

    Thresholds are set on validation images at a false-positive rate of 5 %; where those are too few, a verdict is None.
    """

    reference: Reference
    sources: Sequence[str]

    def rows(self, table: pa.Table) -> list[dict[str, Any]]:
        """What each image's row says beside its name.

        - `generated`: `score`, the log odds that it is not real, and `verdict`; where real and generated sources are
          among the trained ones. At most 5 % of real images get the verdict true.
        - `unknown`: whether the image is unlike those of all trained sources; `unknown_score`. At most 5 % of images of
          trained sources get true.
        - `enrolled`, where sources are enrolled, of an image that is not confidently of a trained source (more unlike
          them than half of their validation images): the nearest one's `name`, `similarity` (cosine), and `verdict`. At
          most 5 % of images of trained sources are as similar to an enrolled image as to get true; of images of other
          unknown sources nothing is promised.
        """
        logits, unlike = read_matrix(table, "logits").numpy(), read_matrix(table, "unlike").tolist()
        rows: list[dict[str, Any]] = [{} for _ in unlike]
        if detects(self.sources):
            threshold = detection_threshold(self.reference, self.sources)
            for row, score in zip(rows, log_odds(logits, ~is_real(self.sources)).tolist(), strict=True):
                verdict = {"score": score, "verdict": _above(score, threshold)}
                row["generated"] = {**verdict, "false_positive_rate": FALSE_POSITIVE_RATE}
        threshold = unknown_threshold(self.reference, self.reference.deciding)
        for row, score in zip(rows, unlike, strict=True):
            row |= {"unknown": _above(score, threshold), "unknown_score": score}
        if "enrolled" in table.column_names:
            names, similar = list(self.reference.gallery.entries), read_matrix(table, "similarity").tolist()
            threshold, doubtful = self.enrolled_threshold(), self._doubtful()
            places = read_matrix(table, "enrolled").tolist()
            for row, place, similarity in zip(rows, places, similar, strict=True):
                if row["unknown_score"] > doubtful:
                    found = {"name": names[place], "similarity": similarity, "verdict": _above(similarity, threshold)}
                    row["enrolled"] = found
        return rows

    def _doubtful(self) -> float:
        scores = self.reference.validation(self.reference.deciding)
        return float(np.median(scores)) if len(scores) else -math.inf

    def enrolled_threshold(self) -> float:
        """Of the similarity to the nearest enrolled image: at most 5 % of images of trained sources lie above it."""
        units = self.reference.scores.get("unit")
        if units is None or not len(units):
            return math.inf
        return threshold_at(self.reference.gallery.nearest(units).similarity.double().numpy())


def _above(score: float, threshold: float) -> bool | None:
    return score > threshold if math.isfinite(threshold) else None

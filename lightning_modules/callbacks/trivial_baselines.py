"""TrivialBaselines: what trivial features reach on the images that an attributor is tested on."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
from numpy.typing import NDArray
from pytorch_lightning.callbacks import Callback
from torch.utils.data import DataLoader, Subset

from datamodules.gm_index.audit import Leak
from datamodules.images.indexed_images import PlannedImages, collate_images
from lightning_modules.evaluation.results import has_beside, write_beside
from lightning_modules.metrics.attribution import balanced_accuracy, even_selection
from lightning_modules.metrics.intervals import Estimate
from lightning_modules.metrics.trivial_features import MOST_PER_SOURCE, trivial_accuracies, trivial_features

FEWEST_PER_SOURCE = 100
"""Images of each source at least, however large they are."""
PIXELS = 2**28
"""Pixels of each split, by which larger images are fewer: 4,096 images of 256 x 256."""


class TrivialBaselines(Callback):
    """Adds `test/trivial/<feature>/accuracy` to the results of an attributor's test.

    They are computed at the start of a test, once in its folder, by the first process alone, so that a file that cannot
    be read is found before the long part. A fixed even selection of each source is looked at (`MOST_PER_SOURCE`,
    `PIXELS`), so a large data set takes no longer. Attributes of the files come from the data set's format audit.
    """

    def on_test_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """The first process computes what is not there yet."""
        folder = Path(trainer.default_root_dir)
        if not trainer.is_global_zero or has_beside(folder):
            return
        if getattr(pl_module, "label_space", None) is not None:
            return  # they would be fitted on the data set that is tested, which the attributor has never seen
        data: Any = trainer.datamodule  # type: ignore[attr-defined]
        most, workers = most_per_source(len(data.sources), data.image_size), data.hparams["num_workers"]
        parts = {}
        for split in ("train", "test"):
            if sum(data.counts(split).values()):
                images = data.images(split)
                parts[split] = _features_of(images, even_selection(images.labels, most), workers)
        found = trivial_accuracies(parts.get("train"), parts["test"], data.sources)
        labelled = sum(sum(data.counts(split).values()) for split in ("train", "val", "test"))
        found |= file_accuracies(data.file_audit, labelled, data.sources)
        write_beside(folder, {f"test/trivial/{name}/accuracy": estimate for name, estimate in found.items()})


def most_per_source(sources: int, image_size: tuple[int, int]) -> int:
    """How many images of each source are looked at."""
    affordable = PIXELS // (sources * image_size[0] * image_size[1])
    return max(FEWEST_PER_SOURCE, min(MOST_PER_SOURCE, affordable))


def file_accuracies(audit: Sequence[Leak] | None, images: int, sources: Sequence[str]) -> dict[str, Estimate]:
    """What attributes of the files reach, from the audit of the data set's labelled images.

    By name: an entry for each attribute that varies; where all files are alike, one at chance; where the audit was off
    (None), none.
    """
    if audit is None:
        return {}
    details: dict[str, Any] = {"file": True, "chance": 1 / len(sources)}
    if not audit:
        told = {"what": "file format, size, mode ...", "fitted_on": "nothing: all files are alike"}
        return {"file_attributes": Estimate(1 / len(sources), None, None, images, "none", {**details, **told})}
    details["fitted_on"] = "files of all splits, each half scored by the other"
    found = {}
    for leak in audit:
        name = "file_" + re.sub(r"\W+", "_", leak.attribute.lower()).strip("_").removeprefix("file_")
        found[name] = balanced_accuracy(leak.named, leak.images, sources, **details, what=leak.attribute)
    return found


def _features_of(images: PlannedImages, chosen: list[int], workers: int) -> tuple[NDArray[np.float64], list[int]]:
    loader = DataLoader(Subset(images, chosen), batch_size=64, num_workers=workers, collate_fn=collate_images)
    features, labels = [], []
    for batch in loader:
        features.append(trivial_features(batch["image"].numpy()))
        labels += batch["label"].tolist()
    return np.concatenate(features), labels

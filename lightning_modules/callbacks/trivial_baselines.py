"""TrivialBaselines: what trivial features reach on the images that an attributor is tested on."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytorch_lightning as pl
from numpy.typing import NDArray
from pytorch_lightning.callbacks import Callback
from torch.utils.data import DataLoader, Subset

from datamodules.gm_index.audit import Leak
from datamodules.images.indexed_images import PlannedImages, collate_images
from lightning_modules.common.distributed import gather_by_index
from lightning_modules.metrics.attribution import balanced_accuracy
from lightning_modules.metrics.intervals import Estimate
from lightning_modules.metrics.trivial_features import MOST_PER_SOURCE, trivial_accuracies, trivial_features

FEWEST_PER_SOURCE = 100
"""Images of each source at least, however large they are."""
PIXELS = 2**28
"""Pixels of each split, by which larger images are fewer: 4,096 images of 256 x 256."""


class TrivialBaselines(Callback):
    """Adds `test/trivial/<feature>/accuracy` to the results of an attributor's test.

    The features of training images are computed at the start of a test, by the first process alone, so that a file
    that cannot be read is found before the long part; those of test images from the batches of the test. A fixed even
    selection of each source is looked at (`MOST_PER_SOURCE`, `PIXELS`), so a large data set takes no longer. Attributes
    of the files come from the data set's format audit. Has to stand before the callback that writes the results.
    """

    def __init__(self) -> None:
        self._reset()

    def _reset(self) -> None:
        self.chosen: set[int] = set()
        self.training: tuple[NDArray[np.float64], list[int]] | None = None
        self.test: dict[int, tuple[int, NDArray[np.float64]]] = {}

    def on_test_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Choose the images; the first process looks at those of the training split."""
        self._reset()
        data: Any = trainer.datamodule  # type: ignore[attr-defined]
        most = most_per_source(len(data.sources), data.image_size)
        self.chosen = set(even_selection(data.images("test").labels, most))
        if trainer.is_global_zero and sum(data.counts("train").values()):
            images = data.images("train")
            chosen = even_selection(images.labels, most)
            self.training = _features_of(images, chosen, data.hparams["num_workers"])

    def on_test_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, *position: Any, **named: Any
    ) -> None:
        """Compute the features of the chosen images of the batch."""
        indices, labels = batch["index"].tolist(), batch["label"].tolist()
        places = [place for place, index in enumerate(indices) if index in self.chosen]
        if places:
            features = trivial_features(batch["image"][places].cpu().numpy())
            for place, row in zip(places, features, strict=True):
                self.test[indices[place]] = (labels[place], row)

    def on_test_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Gather from all processes; the first one fits, scores and adds to the module's results."""
        test = gather_by_index(self.test)
        if trainer.is_global_zero:
            rows = [test[index] for index in sorted(test)]
            sources: list[str] = pl_module.sources  # type: ignore[assignment]
            found = trivial_accuracies(
                self.training, (np.stack([row for _, row in rows]), [label for label, _ in rows]), sources
            )
            data: Any = trainer.datamodule  # type: ignore[attr-defined]
            labelled = sum(sum(data.counts(split).values()) for split in ("train", "val", "test"))
            found |= file_accuracies(data.file_audit, labelled, sources)
            results: dict[str, Estimate] = pl_module.results  # type: ignore[assignment]
            results.update({f"test/trivial/{name}/accuracy": estimate for name, estimate in found.items()})
        self._reset()


def most_per_source(sources: int, image_size: tuple[int, int]) -> int:
    """How many images of each source are looked at."""
    affordable = PIXELS // (sources * image_size[0] * image_size[1])
    return max(FEWEST_PER_SOURCE, min(MOST_PER_SOURCE, affordable))


def even_selection(labels: NDArray[np.int64], most: int) -> list[int]:
    """Positions of at most `most` images of each label, evenly over the split, sorted."""
    chosen: list[int] = []
    for label in np.unique(labels):
        places = np.flatnonzero(labels == label)
        kept = np.linspace(0, len(places) - 1, min(most, len(places))).round().astype(int)
        chosen += places[kept].tolist()
    return sorted(chosen)


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

"""What a test leaves in the run folder, and sends to Weights & Biases."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytorch_lightning as pl
from numpy.typing import NDArray
from pytorch_lightning.callbacks import Callback
from pytorch_lightning.loggers import WandbLogger
from torch import Tensor

from lightning_modules.callbacks.evaluation_run import complete_provenance
from lightning_modules.common.images import to_uint8
from lightning_modules.evaluation.attribution import PART
from lightning_modules.evaluation.blocks import EvaluationFolder
from lightning_modules.evaluation.explanations import Explainer, explain_examples
from lightning_modules.evaluation.fingerprint import stored_pairs
from lightning_modules.evaluation.results import ATTRIBUTION, FINGERPRINT
from lightning_modules.metrics.intervals import Estimate
from lightning_modules.reporting.evaluation_report import write_report
from lightning_modules.reporting.wandb_examples import AttackedImage
from lightning_modules.reporting.wandb_record import send_examples, send_results

EXAMPLES, ATTACKS = 4, 8  # images, and attacks on each, that are sent to W&B
EXPLAINED = 16  # images, of which a page shows a row each


class EvaluationReport(Callback):
    """Writes results, figures and page from the finished blocks at the end of a test, and sends them to W&B.

    Args:
        explained_images: Test images of which an attributor's report shows what the answer hangs on, at most; 0 for
            none.

    Raises:
        ValueError: A negative number.
    """

    def __init__(self, explained_images: int = EXPLAINED) -> None:
        if explained_images < 0:
            raise ValueError(f"found explained_images {explained_images}, expected 0 (none) or more")
        self.explained_images = explained_images

    def on_test_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """The first process writes."""
        if not trainer.is_global_zero:
            return
        folder, results = Path(trainer.default_root_dir), cast(dict[str, Estimate], pl_module.results)
        complete_provenance(folder, trainer)  # which the page shows
        explain(trainer, pl_module, self.explained_images)
        write_report(folder, results)
        for logger in trainer.loggers:
            if isinstance(logger, WandbLogger):
                send_results(logger.experiment, folder)
                if pictures := attacked_images(folder):
                    send_examples(logger.experiment, pictures)


def explain(trainer: pl.Trainer, pl_module: pl.LightningModule, most: int) -> None:
    """Keep explanations of an attributor's test in its folder; what goes wrong is told, and costs no more than that."""
    folder = EvaluationFolder(Path(trainer.default_root_dir))
    if folder.evaluation.kind != ATTRIBUTION:
        return
    module = cast(Any, pl_module)
    training = {part: part.training for part in module.networks.modules()}
    module.networks.eval()
    try:
        explainer = Explainer(module.answering, module.label_space)
        problems = explain_examples(folder, explainer, module.data.images(PART), most, module.device)
    finally:
        for part, was in training.items():
            part.training = was
    if problems:
        more = f", and {len(problems) - 1} more" if len(problems) > 1 else ""
        sys.stderr.write(f"note: not explained in the report: {problems[0]}{more}\n")


def attacked_images(folder: Path) -> list[AttackedImage]:
    """Marked images before and after attacks, with the positions of wrong bits; none of an attributor's test."""
    stored = EvaluationFolder(folder)
    if stored.evaluation.kind != FINGERPRINT:
        return []
    bits, found = stored.evaluation.settings["bits"], []
    for pair in stored_pairs(stored)[:EXAMPLES]:
        before = _pixels(pair.marked)
        for name, attacked in list(pair.attacked.items())[:ATTACKS]:
            caption = f"image {pair.index}, {name}"
            found.append(AttackedImage(caption, before, _pixels(attacked), pair.wrong_bits[name], bits))
    return found


def _pixels(image: Tensor) -> NDArray[np.uint8]:
    pixels: NDArray[np.uint8] = to_uint8(image).permute(1, 2, 0).numpy()
    return pixels


def not_there_yet(module: pl.LightningModule, *callbacks: Callback) -> list[Callback]:
    """Callbacks of kinds that the module's trainer has none of: a config may name one with settings of its own.

    Lightning asks a module for its callbacks at each stage, and would put them in place of those that are there.
    """
    trainer = getattr(module, "_trainer", None)
    there = {type(each) for each in trainer.callbacks} if trainer is not None else set()
    return [each for each in callbacks if type(each) not in there]

"""Sends what an evaluation wrote to Weights & Biases."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.loggers import WandbLogger


def send_to_wandb(trainer: pl.Trainer, figures: dict[str, Path], results: dict[str, Any]) -> None:
    """Send figures, the report and every number with its interval to the trainer's loggers of W&B, if any."""
    for run in [logger.experiment for logger in trainer.loggers if isinstance(logger, WandbLogger)]:
        import wandb

        run.log({f"test/{name}": wandb.Image(str(path)) for name, path in figures.items()})
        page = Path(trainer.default_root_dir) / "report.html"
        run.log({"test/report": wandb.Html(page.read_text(), inject=False)})
        for name, estimate in results.items():
            run.summary[name] = estimate.value
            if estimate.low is not None:
                run.summary[f"{name}/low"], run.summary[f"{name}/high"] = estimate.low, estimate.high

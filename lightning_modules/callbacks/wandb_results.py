"""Sends what an evaluation wrote to Weights & Biases."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pytorch_lightning.loggers import WandbLogger


def send_to_wandb(logger: WandbLogger, folder: Path, figures: dict[str, Path], results: dict[str, Any]) -> None:
    """Send figures, the report and every number with its interval."""
    import wandb

    run = logger.experiment
    run.log({f"test/{name}": wandb.Image(str(path)) for name, path in figures.items()})
    run.log({"test/report": wandb.Html((folder / "report.html").read_text(), inject=False)})
    for name, estimate in results.items():
        run.summary[name] = estimate.value
        if estimate.low is not None:
            run.summary[f"{name}/low"], run.summary[f"{name}/high"] = estimate.low, estimate.high

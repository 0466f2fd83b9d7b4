"""What a test leaves in the run folder, and sends to Weights & Biases."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import Callback
from pytorch_lightning.loggers import WandbLogger

from lightning_modules.reporting.evaluation_report import write_report


class EvaluationReport(Callback):
    """Writes results, figures and page from the finished blocks at the end of a test, and sends them to W&B."""

    def on_test_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """The first process writes."""
        if trainer.is_global_zero:
            results: Any = pl_module.results
            send_to_wandb(trainer, write_report(Path(trainer.default_root_dir), results), results)


def not_there_yet(module: pl.LightningModule, *callbacks: Callback) -> list[Callback]:
    """Callbacks of kinds that the module's trainer has none of: a config may name one with settings of its own.

    Lightning asks a module for its callbacks at each stage, and would put them in place of those that are there.
    """
    trainer = getattr(module, "_trainer", None)
    there = {type(each) for each in trainer.callbacks} if trainer is not None else set()
    return [each for each in callbacks if type(each) not in there]


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

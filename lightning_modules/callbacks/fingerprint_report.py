"""FingerprintReport: what an evaluation of a fingerprint leaves in the run folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import Callback

from lightning_modules.callbacks.training_record import training_behind
from lightning_modules.callbacks.wandb_results import send_to_wandb
from lightning_modules.common.distributed import gather_rows
from lightning_modules.reporting.fingerprint_page import FingerprintResults, write_fingerprint_page
from lightning_modules.reporting.run_files import write_jsonl, write_metrics
from lightning_modules.reporting.runs import flat_settings

PUBLIC = ("bits", "shift", "sigma", "centred", "layout", "latent_prior", "generator_name")


class FingerprintReport(Callback):
    """Writes `metrics.json`, `rows.jsonl`, `figures/` and `report.html` of a fingerprint's test, and sends them to W&B.

    Nothing of it holds a key or a decoded bit: rows count matching bits.
    """

    def on_test_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Gather from all processes; the first one writes."""
        module: Any = pl_module
        rows = gather_rows(module.rows)
        if not trainer.is_global_zero:
            return
        folder = Path(trainer.default_root_dir)
        write_metrics(folder / "metrics.json", module.results)
        write_jsonl(folder / "rows.jsonl", rows)
        shown = FingerprintResults(
            results=module.results,
            attacks=module.evaluation.names,
            examples=module.evaluation.examples,
            settings=flat_settings(module.hparams),
            fingerprint={name: getattr(module.fingerprint, name) for name in PUBLIC},
            data=trainer.datamodule.describe(),  # type: ignore[attr-defined]
            decoder=str(module.decoder),
            training=training_behind(trainer),
            loss=str(module.decoder.image_loss["name"]),
        )
        send_to_wandb(trainer, write_fingerprint_page(folder, shown), module.results)

"""What a test leaves in the run folder, and sends to Weights & Biases: one callback for each kind of module."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback
from pytorch_lightning.loggers import WandbLogger
from torch import Tensor

from lightning_modules.callbacks.prediction_rows import rows_of
from lightning_modules.callbacks.training_record import training_behind
from lightning_modules.common.distributed import gather_by_index, gather_rows
from lightning_modules.reporting.attribution_page import AttributionResults, ExampleImages, write_attribution_page
from lightning_modules.reporting.fingerprint_page import FingerprintResults, write_fingerprint_page
from lightning_modules.reporting.run_files import write_jsonl, write_metrics
from lightning_modules.reporting.runs import flat_settings

SHOWN_FEATURES = 1500  # t-SNE stays legible, and quick


class AttributionReport(Callback):
    """Writes `metrics.json`, `rows.jsonl`, `figures/` and `report.html` at the end of a test, and sends them to W&B.

    Args:
        examples_per_source: Images of each source shown with their nearest real and their artifact.
    """

    def __init__(self, examples_per_source: int = 3) -> None:
        self.examples_per_source = examples_per_source
        self._reset()

    def _reset(self) -> None:
        self.rows: list[dict[str, Any]] = []
        self.examples: dict[int, list[ExampleImages]] = {}
        self.features: dict[int, tuple[int, Tensor]] = {}

    def on_test_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Forget an earlier test; choose how densely features are kept."""
        self._reset()
        images = len(trainer.datamodule.images("test"))  # type: ignore[attr-defined]
        self.stride = max(1, -(-images // SHOWN_FEATURES))

    def on_test_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, *position: Any, **named: Any
    ) -> None:
        """Keep the batch's rows, the first images of each source, and an even selection of features."""
        module: Any = pl_module
        features = outputs["features"].cpu()
        labels, indices = batch["label"].tolist(), batch["index"].tolist()
        for place, (label, index) in enumerate(zip(labels, indices, strict=True)):
            if index % self.stride == 0:
                self.features[index] = (label, features[place])
            kept = self.examples.setdefault(label, [])
            if "artifact" in outputs and len(kept) < self.examples_per_source:
                nearest = module.nearest_image(int(outputs["nearest"][place]))
                image, artifact = batch["image"][place].cpu(), outputs["artifact"][place].cpu()
                kept.append(ExampleImages(index, image, None if nearest is None else nearest.cpu(), artifact))
        columns = {key: value for key, value in outputs.items() if key not in ("artifact", "nearest", "features")}
        self.rows.extend(rows_of(columns, module.sources))

    def on_test_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Gather from all processes; the first one writes."""
        rows = gather_rows(self.rows)
        features = gather_by_index(self.features)
        examples = gather_by_index(self.examples, merge=self._merge)
        if trainer.is_global_zero:
            folder = Path(trainer.default_root_dir)
            module: Any = pl_module
            data: Any = trainer.datamodule  # type: ignore[attr-defined]
            write_metrics(folder / "metrics.json", module.results)
            write_jsonl(folder / "rows.jsonl", rows)
            shown = AttributionResults(
                results=module.results,
                rows=rows,
                sources=list(module.sources),
                source_info=getattr(data, "source_info", {}),
                features=torch.stack([features[index][1] for index in sorted(features)]),
                labels=[features[index][0] for index in sorted(features)],
                examples=examples,
                settings=module.report_settings(),
                data=data.describe(),
                training=training_behind(trainer),
            )
            send_to_wandb(trainer, write_attribution_page(folder, shown), module.results)
        self._reset()

    def _merge(self, into: dict[int, list[ExampleImages]], share: dict[int, list[ExampleImages]]) -> None:
        for label, examples in share.items():
            both = sorted([*into.get(label, []), *examples], key=lambda example: example.index)
            into[label] = both[: self.examples_per_source]


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

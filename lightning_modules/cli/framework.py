"""The LightningCLI that train.py and evaluate.py share."""

from __future__ import annotations

import io
import json
import os
import platform
import sys
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback, ModelCheckpoint
from pytorch_lightning.cli import LightningCLI
from pytorch_lightning.loggers import CSVLogger, Logger, WandbLogger
from pytorch_lightning.plugins.io import TorchCheckpointIO
from pytorch_lightning.strategies import DDPStrategy, SingleDeviceStrategy

from datamodules.images.pixel_path import Reencode
from lightning_modules.artifacts.manifold_files import MANIFEST
from lightning_modules.callbacks import EvaluationReport, FingerprintReport, TrivialBaselines
from lightning_modules.callbacks.training_record import TrainingRecord, training_behind
from lightning_modules.cli.overrides import StepsOfResumedTraining, check_overrides
from lightning_modules.cli.parser import SuggestingParser
from lightning_modules.cli.prediction_plan import FALSE_POSITIVE_RATE, plan_prediction
from lightning_modules.cli.run_folder import (
    experiment_name,
    new_run_folder,
    resolve_checkpoint,
    run_folder_of,
    share_run_folder,
)
from lightning_modules.cli.wandb_mode import choose_wandb_mode
from lightning_modules.common.files import check_file, check_folder, write_bytes, write_text
from lightning_modules.common.shipped import find_trained, program, with_found_configs
from lightning_modules.latent_fingerprint import LatentFingerprint
from lightning_modules.reporting.findings import fdr_conditions, trivial_finding, warnings_of
from lightning_modules.reporting.formatting import format_estimate
from lightning_modules.reporting.run_files import write_json

PACKAGES = (
    "torch",
    "torchvision",
    "pytorch-lightning",
    "torchmetrics",
    "timm",
    "kornia",
    "diffusers",
    "numpy",
    "scikit-learn",
    "wandb",
)

HEADLINES = (
    "test/accuracy",
    "test/fdr",
    "test/clean/bit_accuracy",
    "test/clean/attribution_accuracy",
    "test/clean/tpr_at_1e-6",
    "test/quality/fid_before",
    "test/quality/fid_after",
)
"""What a test prints, of what it measured; the report has the rest."""


class AtomicCheckpoints(TorchCheckpointIO):
    """Checkpoints that replace the last one when they are whole: a full disk leaves the one before."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        """Write one; Lightning's own writer copies it to its place, where the copy can end half way."""
        if "://" in str(path):
            return super().save_checkpoint(checkpoint, path, storage_options)
        buffer = io.BytesIO()
        torch.save(checkpoint, buffer)
        return write_bytes(Path(path), buffer.getbuffer())


class FrameworkCLI(LightningCLI):
    """Parses one config with overrides and builds the trainer, the module and the datamodule inside a run folder.

    Nothing is run. Attributes of interest: ``trainer``, ``model``, ``datamodule``, ``run_dir``, ``ckpt_path``.

    Args:
        args: Command line without the program name; None for ``sys.argv[1:]``.
        purpose: ``train``, ``test`` or ``predict``; evaluation runs get a folder name that says so.
    """

    def __init__(self, args: list[str] | None, purpose: str) -> None:
        self.purpose = purpose
        self.arguments = sys.argv[1:] if args is None else args
        offline = choose_wandb_mode()  # also for a WandbLogger of a config's own
        if offline is not None and purpose in ("train", "test") and os.environ.get("LOCAL_RANK", "0") == "0":
            sys.stderr.write(f"warning: {offline}\n")
        os.environ.setdefault("WANDB_SILENT", "true")
        try:
            found = with_found_configs(self.arguments)
        except FileNotFoundError as error:
            raise SystemExit(f"{program(purpose)}: {error}") from error
        argv, sys.argv = sys.argv, sys.argv[:1]  # Lightning warns where both are given
        try:
            super().__init__(
                pl.LightningModule,
                pl.LightningDataModule,
                save_config_callback=None,  # written once, into the run folder
                trainer_defaults={"use_distributed_sampler": False},  # ours repeat nothing
                seed_everything_default=0,
                parser_class=SuggestingParser,
                parser_kwargs={
                    "prog": program(purpose),
                    "allow_abbrev": False,  # half a key is a typing error, not a key
                },
                subclass_mode_model=True,
                subclass_mode_data=True,
                args=found,
                run=False,
                auto_configure_optimizers=False,
                load_from_checkpoint_support=False,  # keeps hyper-parameters plain values
            )
        finally:
            sys.argv = argv

    def add_arguments_to_parser(self, parser: Any) -> None:
        """Options of a run beside Lightning's own."""
        if self.purpose == "predict":
            parser.add_argument("--images", type=str, required=True, help="image file, folder or glob")
            parser.add_argument(
                "--out", type=str | None, default=None, help="JSON lines; default: in a new folder below runs/predict"
            )
            parser.add_argument(
                "--skip_unreadable",
                type=bool,
                default=False,
                help="go on without images that cannot be used; their rows say why",
            )
            parser.add_argument(
                "--center_crop",
                type=int | None,
                default=None,
                help="cut out the central square; default: as in training",
            )
            parser.add_argument(
                "--resize", type=int | None, default=None, help="scale the shorter side; default: as in training"
            )
            parser.add_argument(
                "--reencode",
                type=Reencode | None,
                default=None,
                help="put images through a codec; default: as in training",
            )
            parser.add_argument(
                "--registry", type=str | None, default=None, help="users and keys to compare with (fingerprints only)"
            )
            parser.add_argument(
                "--false_positive_rate",
                type=float,
                default=FALSE_POSITIVE_RATE,
                help="largest chance of naming any user for an image without key (fingerprints only)",
            )
            parser.add_argument(
                "--combine", type=bool, default=False, help="one verdict more, over all images (fingerprints only)"
            )
            parser.add_argument(
                "--show_bits",
                type=bool,
                default=False,
                help="write decoded bits, which may equal a user's key, into a file of yours alone (fingerprints only)",
            )
        parser.add_argument("--ckpt_path", type=str | None, default=None, help="checkpoint file, run folder, or `last`")
        parser.add_argument("--run_dir", type=str | None, default=None, help="folder of this run; default: a new one")
        parser.add_argument("--runs_dir", type=str, default="runs", help="folder of all runs")
        parser.add_argument("--checkpoint_every_n_epochs", type=int, default=1, help="how often last.ckpt is renewed")
        parser.add_argument("--test_after_fit", type=bool, default=True, help="evaluate on the test split afterwards")

    def before_instantiate_classes(self) -> None:
        """Choose the run folder and complete the trainer's settings before anything is built."""
        config = self.config
        given = config.get("config")
        self.experiment = experiment_name(Path(given[0].absolute) if given else None)
        root = Path(config["runs_dir"])
        asked = Path(config["run_dir"]) if config["run_dir"] else None
        resumed = asked if self.purpose == "train" else None
        named = config["ckpt_path"] and find_trained(config["ckpt_path"])
        self.ckpt_path = resolve_checkpoint(named, self.experiment, root, resumed)
        if self.purpose == "predict":
            try:
                self.plan = plan_prediction(self.ckpt_path, config)
            except ValueError as error:
                raise SystemExit(f"{program('predict')}: {error}") from error
            if config["out"] and Path(config["out"]).exists():
                raise SystemExit(
                    f"{program('predict')}: found {config['out']} already, expected a new file for what is found; name "
                    "another --out, or move that one away"
                )
            if config["out"]:
                check_file(Path(config["out"]), "--out")
        self._check_option_places()
        self.keeps_run_folder = True
        if asked is not None:
            self.run_dir = asked
        elif self.purpose == "predict" and config["out"]:  # one file is all that was asked for
            self.run_dir, self.keeps_run_folder = Path(config["out"]).absolute().parent, False
        elif self.purpose == "train" and self.ckpt_path is not None:
            self.run_dir = run_folder_of(self.ckpt_path)  # a resumed run goes on in its own folder
        else:
            # evaluations lie apart, so that runs/EXPERIMENT/* are training runs
            name = self.experiment if self.purpose == "train" else f"{self.purpose}/{self.experiment}"
            check_folder(root / name, "--runs_dir (folder of all runs) or --run_dir (of this one)")
            self.run_dir = new_run_folder(name, root)
        self.run_dir = self.run_dir.resolve()
        if self.keeps_run_folder:
            check_folder(self.run_dir, "--run_dir")
        self.run_dir.mkdir(parents=True, exist_ok=True)
        share_run_folder(self.run_dir)
        config["trainer"]["default_root_dir"] = str(self.run_dir)
        always: list[Callback] = []
        if self.purpose == "train" and config["trainer"]["enable_checkpointing"] is not False:
            always.append(self._last_checkpoint())
        if self.purpose == "train" and self.ckpt_path is not None:
            always.append(StepsOfResumedTraining(then=self.record))
        self.trainer_defaults["callbacks"] = always
        torch.set_float32_matmul_precision("highest")

    def _check_option_places(self) -> None:
        """Refuse folders of the module that cannot be written to, some of which are needed hours later."""
        places = {"model.init_args.decoder.cache": True, "model.init_args.manifold_dir": self.purpose == "train"}
        for key, needed in places.items():
            folder = self.config.get(key)
            if needed and folder and not any(Path(folder).glob(f"*/{MANIFEST}")):  # manifolds that are there are read
                check_folder(Path(folder), f"--{key}")

    def instantiate_trainer(self, **kwargs: Any) -> pl.Trainer:
        """Build the trainer with the run folder's checkpoints and loggers, and write down what was run."""
        if self.ckpt_path is not None:
            try:
                check_overrides(self.ckpt_path, self.purpose, self.model, self.datamodule, self.config)
            except ValueError:
                if not self.config["run_dir"] and self.keeps_run_folder:
                    with suppress(OSError):  # an empty one was made for this run; of a resumed one it is full
                        self.run_dir.rmdir()
                raise
        logger = self.config["trainer"]["logger"]
        if logger is None or logger is True:
            kwargs["logger"] = False if self.purpose == "predict" else self._loggers()
        reports = [FingerprintReport()] if isinstance(self.model, LatentFingerprint) else _attribution_reports()
        self.trainer_defaults["callbacks"] += [TrainingRecord(), *reports]
        if getattr(self.model, "needs_gradients", False):
            kwargs["inference_mode"] = False  # tensors made in inference mode can never have gradients
        trainer = super().instantiate_trainer(**kwargs)
        if type(trainer.strategy) in (SingleDeviceStrategy, DDPStrategy):  # others write checkpoints of their own form
            trainer.strategy.checkpoint_io = AtomicCheckpoints()
        self.recorded = False
        self.trainer = trainer
        if self.purpose != "train" or self.ckpt_path is None:  # else once it is sure that the training can go on
            self.record()
        return trainer

    def _last_checkpoint(self) -> Callback:
        return ModelCheckpoint(
            dirpath=self.run_dir / "checkpoints",
            filename="last",
            enable_version_counter=False,
            save_top_k=1,
            every_n_epochs=self.config["checkpoint_every_n_epochs"],
            save_on_train_epoch_end=True,
            save_last=False,
        )

    def _loggers(self) -> list[Logger]:
        return [
            CSVLogger(self.run_dir, name="", version="logs"),
            WandbLogger(
                project="manifold-fingerprints",
                name=f"{self.experiment}/{self.run_dir.name}",
                group=self.experiment,
                job_type=self.purpose,
                save_dir=self.run_dir,
            ),
        ]

    def finish(self) -> None:
        """Write how far the training had come, close the W&B run, print the main numbers and where everything lies."""
        if not self.trainer.is_global_zero:
            return
        training = training_behind(self.trainer)
        provenance = self.run_dir / "provenance.json"
        write_json(provenance, {**json.loads(provenance.read_text()), "training": training})
        for logger in self.trainer.loggers:
            if isinstance(logger, WandbLogger):
                if training is not None:
                    told = {f"training/{name}": value for name, value in training.to_json().items()}
                    logger.experiment.summary.update(told)
                logger.experiment.finish()  # so that its file is whole
        results = getattr(self.model, "results", {})
        for name in [name for name in HEADLINES if name in results]:
            shown = format_estimate(results[name], percent=name.endswith(("accuracy", "tpr_at_1e-6")))
            conditions = f"; {fdr_conditions(results)}" if name == "test/fdr" else ""
            print(f"{name}: {shown}, n = {results[name].n:,}{conditions}")
        if (finding := trivial_finding(results)) is not None:
            print(finding)
        for warning in warnings_of(results, training):
            print(f"warning: {warning}")
        print(self.run_dir)

    def record(self) -> None:
        """Write down what is run, once, on the first process, where there is a run folder."""
        if self.recorded or not self.trainer.is_global_zero or not self.keeps_run_folder:
            return
        self.recorded = True
        config = self.run_dir / "config.yaml"
        described = self.config.clone()
        described["run_dir"] = described["ckpt_path"] = None  # of this run alone; the command is kept below
        resolved = self.parser.dump(described, skip_unset=False)
        if config.is_file() and config.read_text() != resolved:
            earlier = len(list(self.run_dir.glob("config.*.yaml"))) + 1
            config.rename(self.run_dir / f"config.{earlier}.yaml")  # what earlier parts of this run were run with
        write_text(config, resolved)
        write_json(
            self.run_dir / "provenance.json",
            {
                "command": [*program(self.purpose).split(), *self.arguments],
                "purpose": self.purpose,
                "experiment": self.experiment,
                "python": platform.python_version(),
                "machine": f"{platform.system()} {platform.machine()}",
                "threads": torch.get_num_threads(),
                "packages": {package: version(package) for package in PACKAGES},
            },
        )


def _attribution_reports() -> list[Callback]:
    return [TrivialBaselines(), EvaluationReport()]  # the first adds to what the second writes

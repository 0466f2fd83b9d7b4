"""What train, test and predict do with a checked command line (`options.check_run`)."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pytorch_lightning.strategies.launchers import _MultiProcessingLauncher
from pytorch_lightning.utilities.model_helpers import is_overridden

from datamodules import ImageFilesDataModule
from lightning_modules.callbacks.training_record import read_training_state
from lightning_modules.cli.framework import FrameworkCLI
from lightning_modules.cli.options import PIXEL_PATH
from lightning_modules.cli.run_folder import LAST
from lightning_modules.common.shipped import program
from lightning_modules.common.tables import check_name
from lightning_modules.evaluation.blocks import clear_evaluation
from lightning_modules.metrics.label_spaces import AS_TRAINED, LABEL_SPACES


def train(args: list[str]) -> dict[str, float]:
    """Fit, then test where the module has a test step; returns the logged metrics of the run by name."""
    cli = FrameworkCLI(args, purpose="train")
    cli.trainer.fit(cli.model, datamodule=cli.datamodule, ckpt_path=cli.ckpt_path, weights_only=True)
    cli.record()  # a training that had no step left is tested with what is asked for now
    if cli.trainer.max_epochs == 0:  # a fingerprint without a trained decoder is a run like any other
        cli.trainer.save_checkpoint(cli.run_dir / LAST)
    metrics = {name: float(value) for name, value in cli.trainer.callback_metrics.items()}
    if cli.config["test_after_fit"] and is_overridden("test_step", cli.model):
        trained = _weights_of_forked_processes(cli)
        cli.trainer.test(cli.model, datamodule=cli.datamodule, ckpt_path=trained, weights_only=True, verbose=False)
        metrics |= {name: float(value) for name, value in cli.trainer.callback_metrics.items()}
    if getattr(cli.model, "checkpoint_entry", None) == "fingerprint" and cli.trainer.is_global_zero:
        from lightning_modules.cli.unmarked_bank import leave_bank

        # last: other processes wait for nothing any more
        leave_bank(cli.run_dir, cli.model.training_settings.unmarked_images, cli.trainer.strategy.root_device)
    cli.finish()
    return metrics


def _weights_of_forked_processes(cli: FrameworkCLI) -> Path | None:
    """The checkpoint to test where processes that have ended did the training (`ddp_fork`, `ddp_spawn`); else None.

    Lightning gives this process their weights by name, and networks that were built in theirs have no name here.
    """
    if not isinstance(cli.trainer.strategy.launcher, _MultiProcessingLauncher):
        return None
    last = cli.run_dir / LAST
    if not last.is_file():
        raise SystemExit(
            f"{program('train')}: found no {last} to test what forked processes have trained; leave checkpoints on, or "
            "give --trainer.strategy ddp or --test_after_fit false"
        )
    clear_evaluation(cli.run_dir)  # of an earlier training in this folder
    return last


def test(args: list[str]) -> dict[str, float]:
    """Evaluate a checkpoint on the test split; returns the logged metrics by name."""
    cli = FrameworkCLI(args, purpose="test")
    cli.model.allow_training_images = cli.config["allow_training_images"]  # of attributors
    space = check_name("label_space", cli.config["label_space"], LABEL_SPACES)
    if space != AS_TRAINED and not hasattr(cli.model, "asked_label_space"):
        raise ValueError(f"found --label_space {space} for a {type(cli.model).__name__}; it is of attributors alone")
    cli.model.asked_label_space = space
    cli.trainer.test(cli.model, datamodule=cli.datamodule, ckpt_path=cli.ckpt_path, weights_only=True, verbose=False)
    cli.finish()
    return {name: float(value) for name, value in cli.trainer.callback_metrics.items()}


BLOCK_SIZE = 64
"""Images of a block where nobody says otherwise."""


def _block_size(asked: Mapping[str, Any], module: Any) -> int:
    """Images of a block of `predict`: as the data's settings say, by default what suits the module."""
    size = int(asked.get("block_size", BLOCK_SIZE))
    return size if size != BLOCK_SIZE else int(getattr(module, "predicted_at_once", BLOCK_SIZE))


def predict(args: list[str]) -> Path:
    """Name the source of loose image files, or the user whose key they carry; returns the path of the JSON lines."""
    cli = FrameworkCLI(args, purpose="predict")
    out = (Path(cli.config["out"]) if cli.config["out"] else cli.run_dir / "predictions.jsonl").resolve()
    plan, checkpoint = cli.plan, cli.ckpt_path
    assert checkpoint is not None
    if getattr(cli.model, "checkpoint_entry", None) != plan.kind:  # `load_state_dict` would call it missing keys
        raise SystemExit(
            f"{program('predict')}: found a config of {type(cli.model).__name__} with the checkpoint of {plan.owner}; "
            "leave out --config, or name the one that the checkpoint was trained with"
        )
    seen = cli.datamodule.hparams if cli.datamodule is not None else {}
    path = {key: seen.get(key) if cli.config[key] is None else cli.config[key] for key in PIXEL_PATH}
    files = ImageFilesDataModule(
        images=cli.config["images"],
        image_size=plan.image_size or cli.model.image_size,
        skip_unreadable=cli.config["skip_unreadable"],
        trained_on=plan.trained_on,
        left_out_file=str(out.with_name(f"{out.stem}.left_out.jsonl")),  # of these predictions alone
        block_size=_block_size(seen, cli.model),
        fit=plan.kind == "fingerprint" and path["center_crop"] is None and path["resize"] is None,
        **{key: seen[key] for key in ("num_workers",) if key in seen},
        **{key: value for key, value in path.items() if value is not None},
    )
    rows = cli.model.prediction_rows(out, plan)
    files.find_unfinished = rows.unfinished_blocks
    cli.trainer.callbacks.append(rows)  # type: ignore[attr-defined]  # Lightning sets it elsewhere
    if cli.trainer.is_global_zero and (warning := plan.cannot_name()) is not None:
        sys.stderr.write(f"warning: {warning}\n")
    training = read_training_state(checkpoint)
    if cli.trainer.is_global_zero and training is not None and training.warning is not None:
        sys.stderr.write(f"warning: {training.warning}\n")
    cli.trainer.predict(
        cli.model, datamodule=files, return_predictions=False, ckpt_path=cli.ckpt_path, weights_only=True
    )
    if cli.trainer.is_global_zero:
        if summary := getattr(rows, "summary", ""):
            print(summary)
        print(out)
    return out

"""How a module's test runs as an evaluation on disk: begun or gone on with, committed block by block, folded once."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytorch_lightning as pl

from lightning_modules.callbacks.training_record import cost_behind, training_behind
from lightning_modules.common.blocks import Block
from lightning_modules.evaluation.blocks import Evaluation, EvaluationFolder
from lightning_modules.evaluation.results import fold_results
from lightning_modules.metrics.intervals import Estimate
from lightning_modules.reporting.findings import TrainingState
from lightning_modules.reporting.run_files import write_json


def begin_evaluation(trainer: pl.Trainer, describe: Callable[[], Evaluation]) -> list[Block]:
    """Begin an evaluation in the run folder, or go on with the same one, on the first process.

    The test of weights that were trained just now replaces an earlier one in the training's folder; that of a
    checkpoint refuses a folder with another evaluation.

    Returns:
        The blocks left to do, on every process.

    Raises:
        EvaluationError: the folder holds another evaluation.
    """
    missing: list[Block] = []
    if trainer.is_global_zero:
        folder = EvaluationFolder.begin(_folder(trainer), describe(), replace=trainer.ckpt_path is None)
        missing = tell_missing(folder)
    return trainer.strategy.broadcast(missing)


def tell_missing(folder: EvaluationFolder) -> list[Block]:
    """The blocks left to do; where others are done, a note on standard error says how many."""
    missing, blocks = folder.missing(), len(folder.blocks)
    if len(missing) < blocks:
        sys.stderr.write(f"note: {blocks - len(missing):,} of {blocks:,} blocks done, {len(missing):,} left\n")
    return missing


def commit_block(trainer: pl.Trainer, batch: dict[str, Any], columns: dict[str, pa.Array]) -> None:
    """Write the finished block that a batch is."""
    EvaluationFolder(_folder(trainer)).commit((batch["part"], batch["block"]), columns)


def fold_evaluation(trainer: pl.Trainer) -> dict[str, Estimate]:
    """Wait for all processes; then every number of the evaluation on the first one, nothing on the others.

    Raises:
        EvaluationError: blocks are missing.
    """
    trainer.strategy.barrier("evaluation")
    return fold_results(EvaluationFolder(_folder(trainer))) if trainer.is_global_zero else {}


def plain_training(trainer: pl.Trainer) -> dict[str, Any] | None:
    """How far the training behind the weights had come, as plain values; None where that is not known."""
    training = training_behind(trainer)
    return None if training is None else training.to_json()


def complete_provenance(run_dir: Path, trainer: pl.Trainer) -> TrainingState | None:
    """Add to `provenance.json`, if there is one, how far the training had come, its cost, hashes of what was tested.

    Returns:
        How far the training behind the weights had come; None where that is not known.
    """
    training, path = training_behind(trainer), run_dir / "provenance.json"
    if path.is_file():
        found = json.loads(path.read_text(encoding="utf-8"))
        evaluation = Evaluation.read(run_dir)
        settings = {} if evaluation is None else evaluation.settings
        hashes = {"data": next(iter(settings.get("data", {}).values()), None)}
        hashes["manifold"] = settings.get("representation", {}).get("manifold")
        found.setdefault("hashes", {}).update({name: value for name, value in hashes.items() if value is not None})
        write_json(path, {**found, "training": training, "training_cost": cost_behind(trainer)})
    return training


def _folder(trainer: pl.Trainer) -> Path:
    return Path(trainer.default_root_dir)

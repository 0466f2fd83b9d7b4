"""What the entry points do: train, test, predict, generate, compare, sweep."""

from __future__ import annotations

import argparse
import re
import sys
from pathlib import Path

import pytorch_lightning as pl
from pytorch_lightning.utilities.model_helpers import is_overridden

from datamodules import ImageFilesDataModule
from lightning_modules.attributor import Attributor
from lightning_modules.callbacks import PredictionRows
from lightning_modules.callbacks.training_record import read_training_state
from lightning_modules.callbacks.verdict_rows import VerdictRows
from lightning_modules.cli.framework import FrameworkCLI
from lightning_modules.cli.run_folder import resolve_checkpoint, run_folder_of
from lightning_modules.common.files import check_folder, write_text
from lightning_modules.common.shipped import find_trained, program
from lightning_modules.latent_fingerprint import LatentFingerprint
from lightning_modules.reporting.compare import Comparison, compare_runs

PIXEL_PATH = ("reencode", "center_crop", "resize")  # loose images take the path that the training images took


def _with_config(args: list[str], command: str) -> list[str]:
    """Complete the arguments with the config of the run that the checkpoint comes from, where no config is given."""
    known, _ = _peek(args)
    if known.ckpt_path is None:
        raise SystemExit(
            f"{program(command)}: --ckpt_path is needed: a checkpoint, a run folder, or `last` with --config"
        )
    if known.config is not None:
        return args
    if known.ckpt_path == "last":
        raise SystemExit(f"{program(command)}: --ckpt_path last needs --config, which names the experiment")
    checkpoint = resolve_checkpoint(find_trained(known.ckpt_path), "", Path(known.runs_dir), None)
    assert checkpoint is not None
    config = run_folder_of(checkpoint) / "config.yaml"
    if not config.is_file():
        raise SystemExit(f"{program(command)}: no {config} beside the checkpoint; name the config with --config")
    return ["--config", str(config), *args]


def _peek(args: list[str]) -> tuple[argparse.Namespace, list[str]]:
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("-c", "--config")
    parser.add_argument("--ckpt_path")
    parser.add_argument("--runs_dir", default="runs")
    return parser.parse_known_args(args)


def train(args: list[str]) -> dict[str, float]:
    """Fit, then test where the module has a test step; returns the logged metrics of the run by name."""
    cli = FrameworkCLI(args, purpose="train")
    cli.trainer.fit(cli.model, datamodule=cli.datamodule, ckpt_path=cli.ckpt_path, weights_only=True)
    cli.record()  # a training that had no step left is tested with what is asked for now
    if cli.trainer.max_epochs == 0:  # a fingerprint without a trained decoder is a run like any other
        cli.trainer.save_checkpoint(cli.run_dir / "checkpoints" / "last.ckpt")
    metrics = {name: float(value) for name, value in cli.trainer.callback_metrics.items()}
    if cli.config["test_after_fit"] and is_overridden("test_step", cli.model):
        cli.trainer.test(cli.model, datamodule=cli.datamodule, verbose=False)
        metrics |= {name: float(value) for name, value in cli.trainer.callback_metrics.items()}
    cli.finish()
    return metrics


def test(args: list[str]) -> dict[str, float]:
    """Evaluate a checkpoint on the test split; returns the logged metrics by name."""
    if "-h" not in args and "--help" not in args:
        args = _with_config(args, "test")
    cli = FrameworkCLI(args, purpose="test")
    cli.trainer.test(cli.model, datamodule=cli.datamodule, ckpt_path=cli.ckpt_path, weights_only=True, verbose=False)
    cli.finish()
    return {name: float(value) for name, value in cli.trainer.callback_metrics.items()}


def _with_pixel_path(args: list[str]) -> list[str]:
    """Take `--data.init_args.resize 32` and its like as `--resize 32`, which needs no data set that knows the key."""
    options = re.compile(rf"--data\.init_args\.({'|'.join(PIXEL_PATH)})(=.*)?")
    taken = list(args)
    for position, arg in enumerate(args):
        found = options.fullmatch(arg)
        value = (found[2] or "").lstrip("=") if found else ""
        value = value or (args[position + 1] if position + 1 < len(args) else "")
        if found and value not in ("null", "None"):  # these ask for less than was done in training
            taken[position] = f"--{found[1]}{found[2] or ''}"
    return taken


def predict(args: list[str]) -> Path:
    """Name the source of loose image files, or the user whose key they carry; returns the path of the JSON lines."""
    args = _with_pixel_path(args)
    if "-h" not in args and "--help" not in args:
        args = _with_config(args, "predict")
    cli = FrameworkCLI(args, purpose="predict")
    out = (Path(cli.config["out"]) if cli.config["out"] else cli.run_dir / "predictions.jsonl").resolve()
    plan = cli.plan
    _check_module(cli.model, plan.kind)
    seen = cli.datamodule.hparams if cli.datamodule is not None else {}
    path = {key: seen.get(key) if cli.config[key] is None else cli.config[key] for key in PIXEL_PATH}
    files = ImageFilesDataModule(
        images=cli.config["images"],
        image_size=plan.image_size or cli.model.generator.image_size,
        skip_unreadable=cli.config["skip_unreadable"],
        trained_on=plan.trained_on,
        left_out_file=str(out.with_name(f"{out.stem}.left_out.jsonl")),  # of these predictions alone
        **{key: seen[key] for key in ("batch_size", "num_workers") if key in seen},
        **{key: value for key, value in path.items() if value is not None},
    )
    rows: PredictionRows | VerdictRows
    if plan.registry is None:
        rows = PredictionRows(out)
    else:
        rows = VerdictRows(out, plan.registry, plan.false_positive_rate, plan.combine, plan.show_bits)
    cli.trainer.callbacks.append(rows)
    if cli.trainer.is_global_zero and (warning := plan.cannot_name()) is not None:
        sys.stderr.write(f"warning: {warning}\n")
    training = read_training_state(cli.ckpt_path)
    if cli.trainer.is_global_zero and training is not None and training.warning is not None:
        sys.stderr.write(f"warning: {training.warning}\n")
    cli.trainer.predict(
        cli.model, datamodule=files, return_predictions=False, ckpt_path=cli.ckpt_path, weights_only=True
    )
    if cli.trainer.is_global_zero:
        if isinstance(rows, VerdictRows):
            print(rows.summary)
        print(out)
    return out


def _check_module(module: pl.LightningModule, kind: str) -> None:
    """Refuse a config of one kind with a checkpoint of the other, which `load_state_dict` would call missing keys."""
    expected = Attributor if kind == "attributor" else LatentFingerprint
    if not isinstance(module, expected):
        raise SystemExit(
            f"{program('predict')}: found a config of {type(module).__name__} with a checkpoint of "
            f"{expected.__name__}; leave out --config, or name the one that the checkpoint was trained with"
        )


def generate(args: list[str]) -> Path:
    """Write images of one generator, or a GM data set of several; returns the folder."""
    from lightning_modules.cli.generate import command

    out = command.generate(args)
    print(out)
    return out


def compare(args: list[str]) -> Comparison:
    """Put several runs in one table: mean and spread over the seeds of runs that differ in nothing else."""
    parser = argparse.ArgumentParser(prog=program("compare"), description=compare.__doc__)
    parser.add_argument("runs", nargs="+", help="run folders")
    parser.add_argument("--metrics", nargs="*", help="shell patterns, such as 'test/control/*'; default: the main ones")
    parser.add_argument("--out", help="folder for comparison.csv, .md and .html; default: print the table alone")
    asked = parser.parse_args(args)
    if asked.out is not None:
        check_folder(Path(asked.out), "--out")
    try:
        comparison = compare_runs(asked.runs)
        table = comparison.to_markdown(asked.metrics)
    except ValueError as error:
        raise SystemExit(f"{program('compare')}: {error}") from error
    print(table)
    if asked.out is not None:
        out = Path(asked.out)
        write_text(out / "comparison.md", table)
        write_text(out / "comparison.csv", comparison.to_csv())
        comparison.write_html(out / "comparison.html", asked.metrics)
        print(out)
    return comparison


def sweep(args: list[str]) -> Path:
    """Run the points of a W&B sweep file without a server; returns the folder of points, tables and figure."""
    from lightning_modules.cli.sweep import command

    return command.sweep(args)

"""What evaluate.py does: test, predict, generate, compare, sweep, and commands over folders of images."""

from __future__ import annotations

import argparse
import re
import sys
from pathlib import Path

import pytorch_lightning as pl

from datamodules import ImageFilesDataModule
from lightning_modules.attributor import Attributor
from lightning_modules.callbacks import PredictionRows
from lightning_modules.callbacks.verdict_rows import VerdictRows
from lightning_modules.cli.framework import FrameworkCLI
from lightning_modules.cli.run_folder import resolve_checkpoint, run_folder_of
from lightning_modules.latent_fingerprint import LatentFingerprint
from lightning_modules.metrics.fid_table import FrechetTable
from lightning_modules.reporting.compare import Comparison, compare_runs
from lightning_modules.reporting.run_files import write_text

PIXEL_PATH = ("reencode", "center_crop", "resize")  # loose images take the path that the training images took


def _with_config(args: list[str], command: str) -> list[str]:
    """Complete the arguments with the config of the run that the checkpoint comes from, where no config is given."""
    known, _ = _peek(args)
    if known.ckpt_path is None:
        raise SystemExit(
            f"evaluate.py {command}: --ckpt_path is needed: a checkpoint, a run folder, or `last` with --config"
        )
    if known.config is not None:
        return args
    if known.ckpt_path == "last":
        raise SystemExit(f"evaluate.py {command}: --ckpt_path last needs --config, which names the experiment")
    checkpoint = resolve_checkpoint(known.ckpt_path, "", Path(known.runs_dir), None)
    assert checkpoint is not None
    config = run_folder_of(checkpoint) / "config.yaml"
    if not config.is_file():
        raise SystemExit(f"evaluate.py {command}: no {config} beside the checkpoint; name the config with --config")
    return ["--config", str(config), *args]


def _peek(args: list[str]) -> tuple[argparse.Namespace, list[str]]:
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("-c", "--config")
    parser.add_argument("--ckpt_path")
    parser.add_argument("--runs_dir", default="runs")
    return parser.parse_known_args(args)


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
        left_out_file=str(cli.run_dir / "left_out.jsonl"),
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
            f"evaluate.py predict: found a config of {type(module).__name__} with a checkpoint of "
            f"{expected.__name__}; leave out --config, or name the one that the checkpoint was trained with"
        )


def generate(args: list[str]) -> Path:
    """Write images of one generator, or a GM data set of several; returns the folder."""
    from lightning_modules.cli import generate as command

    out = command.generate(args)
    print(out)
    return out


def compare(args: list[str]) -> Comparison:
    """Put several runs in one table: mean and spread over the seeds of runs that differ in nothing else."""
    parser = argparse.ArgumentParser(prog="evaluate.py compare", description=compare.__doc__)
    parser.add_argument("runs", nargs="+", help="run folders")
    parser.add_argument("--metrics", nargs="*", help="shell patterns, such as 'test/control/*'; default: the main ones")
    parser.add_argument("--out", help="folder for comparison.csv, .md and .html; default: print the table alone")
    asked = parser.parse_args(args)
    try:
        comparison = compare_runs(asked.runs)
        table = comparison.to_markdown(asked.metrics)
    except ValueError as error:
        raise SystemExit(f"evaluate.py compare: {error}") from error
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
    from lightning_modules.cli import sweep as command

    return command.sweep(args)


def fid(args: list[str]) -> FrechetTable:
    """Print the Frechet distance of each folder of images to held-out reals; returns the table."""
    from lightning_modules.cli import image_folders as command

    return command.fid(args)


def codecs(args: list[str]) -> None:
    """Print how far the differentiable JPEG is from the real codec."""
    from lightning_modules.cli import image_folders as command

    command.codecs(args)


def sheets(args: list[str]) -> list[Path]:
    """Write a sheet of images of each source; returns the files."""
    from lightning_modules.cli import image_folders as command

    return command.sheets(args)

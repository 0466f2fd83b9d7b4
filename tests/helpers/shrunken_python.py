"""What runs in place of `python` when the commands of the documentation are tested: the same command on less data.

Only sizes are changed: how many images, steps and epochs, and whether a data set of the system or the sample that ships
is read. A command without a line here runs as it stands.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

SHORT = {
    "trainer.max_epochs": 1,
    "trainer.accelerator": "cpu",
    "trainer.enable_progress_bar": "false",
    "trainer.enable_model_summary": "false",
}
ATTRIBUTION = {"data.init_args.batch_size": 8, "trainer.limit_train_batches": 4}
FINGERPRINT = {
    "data.init_args.train_images": 16,
    "data.init_args.val_images": 8,
    "data.init_args.batch_size": 8,
    "data.init_args.test_images": 8,
    "data.init_args.negative_images": 16,
    "data.init_args.reals": "fashion_sample",
}
FINGERPRINT |= {
    "model.init_args.key.fit_latents": 700,
    "model.init_args.training.bank": 0,
    "model.init_args.training.unmarked_images": 8,
}
FINGERPRINT |= {"model.init_args.training.backbone": "test_resnet"}
PAPER = {
    "data.init_args.test_images": 1,
    "trainer.max_epochs": 0,
    "model.init_args.decoder.options": "{starts: 2, steps: 2}",
    "model.init_args.decoder.loss": "{name: pixels}",  # LPIPS fetches its trunk
}
SHIPPED = {path.name for path in Path("lightning_modules/fingerprints/trained").iterdir()}
GM_FASHION = {"n": 40, "real_images": 80, "manifold_images": 60, "reals": "fashion_sample", "processes": 1}


def value_of(args: list[str], option: str) -> str | None:
    return args[args.index(option) + 1] if option in args else None


def changes(args: list[str]) -> dict[str, object]:
    """Options that make a command small."""
    script, command = args[0], args[1] if len(args) > 1 else ""
    config = value_of(args, "--config")
    if script == "train.py" and config:
        if "/attribution/" in config:
            return {**SHORT, **ATTRIBUTION}
        if "/zoo/" in config:
            return {**SHORT, "trainer.limit_train_batches": 2, "data.init_args.batch_size": 4}
        return {**SHORT, **FINGERPRINT, **(PAPER if config.endswith("_paper.yaml") else {})}
    if command == "generate":
        return GM_FASHION if config and "gm_fashion" in config else {"n": min(20, int(value_of(args, "--n") or 20))}
    run = value_of(args, "--ckpt_path") or ""
    if command == "test" and ("fingerprints" in run or run in SHIPPED):
        return {"data.init_args.test_images": 8, "data.init_args.negative_images": 16}
    return {}


def main() -> None:
    args, real = sys.argv[1:], os.environ["REAL_PYTHON"]
    if args[0] == "-c":
        raise SystemExit(subprocess.run([real, *args], check=False).returncode)
    if args[:2] == ["evaluate.py", "sweep"]:
        args.append("--dry_run")
    if args[:2] == ["evaluate.py", "export"] and len(args) == 3:
        args.append("exported")  # not into the package
    args = ["fashion_cnn" if arg == "inception" else arg for arg in args]  # whose weights would be fetched
    for key, value in changes(args).items():
        option = f"--{key}"
        if option in args and key in ("trainer.max_epochs", "data.init_args.reals"):
            continue
        if option in args:
            args[args.index(option) + 1] = str(value)
        else:
            args += [option, str(value)]
    raise SystemExit(subprocess.run([real, *args], check=False).returncode)


if __name__ == "__main__":
    main()

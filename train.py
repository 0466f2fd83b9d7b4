"""Train anything: an attributor, a fingerprint and its decoder, a small generator.

python train.py --config configs/quickstart.yaml [--model.init_args.learning_rate 3e-4 ...] [--ckpt_path last]
python train.py --config configs/fingerprint/stylegan2.yaml [--model.init_args.generator FILE ...]

The last line printed is the run's folder.
"""

from __future__ import annotations

import sys
from typing import Any

from lightning_modules.cli.entry import TRAIN, run
from lightning_modules.cli.errors import run_command


def main(args: list[str] | None = None) -> Any:
    """Fit, then test where the module has a test step.

    Args:
        args: Command line without the program name; None for the process's own.

    Returns:
        The logged metrics of the run by name; None where only help was asked for.
    """
    return run([TRAIN, *(sys.argv[1:] if args is None else args)])


if __name__ == "__main__":
    run_command(main)

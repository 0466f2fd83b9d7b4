"""Evaluate what train.py made, and all that belongs to it: `python evaluate.py --help` lists the commands.

python evaluate.py test     --ckpt_path RUN                              numbers, rows, figures, report of the test
python evaluate.py predict  --ckpt_path RUN --images PATH                who made these images, or whose key they carry
python evaluate.py generate --config configs/gm_fashion/quickstart.yaml  a GM data set from generators
python evaluate.py compare  RUN RUN ...                                  runs in one table

The last line printed is the folder (predict: the file) of the results.
"""

from __future__ import annotations

from lightning_modules.cli.entry import COMMANDS, TRAIN, run
from lightning_modules.cli.errors import run_command


def main(args: list[str] | None = None) -> object:
    """Run one command; returns what it computed.

    Args:
        args: Command line without the program name; None for the process's own.
    """
    return run(args, tuple(name for name in COMMANDS if name != TRAIN))


if __name__ == "__main__":
    run_command(main)

"""Evaluate what train.py made.

python evaluate.py test     --ckpt_path RUN [--config C] [overrides]      numbers, rows, figures and report on the test split
python evaluate.py predict  --ckpt_path RUN --images PATH [--out FILE]    JSON lines: file, predicted source, probabilities
python evaluate.py generate --config configs/gm_fashion/quickstart.yaml   a GM data set from generators
python evaluate.py compare  RUN RUN ... [--out FOLDER]                    several runs in one table, mean and spread over seeds

The last line printed is the folder (predict: the file) of the results.
"""

from __future__ import annotations

import sys
from collections.abc import Callable

from lightning_modules.cli import commands

COMMANDS: dict[str, Callable[[list[str]], object]] = {
    "test": commands.test,
    "predict": commands.predict,
    "generate": commands.generate,
    "compare": commands.compare,
}


def main(args: list[str] | None = None) -> object:
    """Run one command; returns what it computed.

    Args:
        args: Command line without the program name; None for the process's own.
    """
    args = sys.argv[1:] if args is None else args
    if not args or args[0] in ("-h", "--help"):
        print(__doc__)
        return None
    if args[0] not in COMMANDS:
        sys.exit(f"evaluate.py: unknown command {args[0]!r}; expected one of {', '.join(COMMANDS)}")
    return COMMANDS[args[0]](args[1:])


if __name__ == "__main__":
    main()

"""Evaluate what train.py made.

python evaluate.py test     --ckpt_path RUN [--config C] [overrides]     numbers, rows, figures, report of the test
python evaluate.py predict  --ckpt_path RUN --images PATH [--out FILE]   JSON lines: source of each image (attributor),
    [--registry users.json] [--combine true]                             or the user whose key it carries (fingerprint)
python evaluate.py generate --config configs/gm_fashion/quickstart.yaml  a GM data set from generators
python evaluate.py generate --generator FILE --n 100 --out FOLDER        images of one generator
python evaluate.py generate --fingerprint RUN --user NAME --n 100 --out FOLDER         those with a user's key in them
python evaluate.py compare  RUN RUN ... [--out FOLDER]                   runs in one table, mean and spread over seeds
python evaluate.py sweep    --config configs/sweeps/bits.yaml            a W&B sweep file, run here: table and figure
python evaluate.py fid      FOLDER... --reals FOLDER [--features F]      Frechet distance of each source to reals
python evaluate.py codecs   [--images FOLDER]                            the differentiable JPEG against the real one
python evaluate.py sheets   OUT [SOURCE ...]                             a sheet of images of each source

The last line printed is the folder (predict: the file) of the results.
"""

from __future__ import annotations

import sys

COMMANDS = ("test", "predict", "generate", "compare", "sweep", "fid", "codecs", "sheets")


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
    from lightning_modules.cli import commands  # here, so that the processes of `generate` start without Lightning

    return getattr(commands, args[0])(args[1:])


if __name__ == "__main__":
    from lightning_modules.cli.messages import run_command

    run_command(main)

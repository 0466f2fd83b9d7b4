"""Evaluate what train.py made, and all that belongs to it.

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

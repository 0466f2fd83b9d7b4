"""The sample sheet of a source, as shown in the documentation.

python -m lightning_modules.generators.samples OUT [--seed 0] [--images 64] [SOURCE ...]
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

from lightning_modules.generators.bundled import bundled_sources, load_bundled
from lightning_modules.generators.sampling import BLOCK, synthesize_block
from lightning_modules.generators.sheet import save_sheet


def main() -> None:
    """Write `OUT/samples_<source>.png` for the sources named, or for all bundled ones."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path, help="folder of the sheets")
    parser.add_argument("sources", nargs="*", help="bundled sources; all of them if none is named")
    parser.add_argument("--seed", type=int, default=0, help="seed of the latents")
    parser.add_argument("--images", type=int, default=64, help="images on a sheet, the first ones of the seed")
    arguments = parser.parse_args()
    for source in arguments.sources or bundled_sources():
        generator = load_bundled(source)
        blocks = [synthesize_block(generator, arguments.seed, start) for start in range(0, arguments.images, BLOCK)]
        path = arguments.out / f"samples_{source}.png"
        save_sheet(torch.cat(blocks)[: arguments.images], path)
        print(path)


if __name__ == "__main__":
    main()

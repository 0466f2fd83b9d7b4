"""Images of one generator: what `evaluate.py generate` does with the key `generator`, and what others share of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lightning_modules.common.shipped import program
from lightning_modules.generators.bundled.load import load_named
from lightning_modules.generators.image_folder import check_image_folder, describe_generation, write_image_folder
from lightning_modules.generators.image_writing import check_reproducible

PROG = program("generate")


def write_images(
    out: str,
    generator: str,
    n: int,
    seed: int = 0,
    kind: str = "auto",
    options: dict[str, Any] | None = None,
    processes: int = 1,
) -> Path:
    """Write `<out>/0000000.png` and so on, and `<out>/generation.json`, which says what made them.

    Args:
        out: Folder of the images.
        generator: A checkpoint (.pt, .pkl, model.ckpt, diffusers folder, .safetensors), a bundled source's name, or a
            repository of the Hugging Face hub (ORG/NAME, or hf://ORG/NAME[@REVISION][/FILE]).
        n: Number of images.
        seed: Of the latents.
        kind: What the checkpoint must be, `stylegan2` or `latent_diffusion`; `auto` for either.
        options: How images are sampled, such as `truncation: 0.7` or `steps: 50`.
        processes: Processes that share the sampling.

    Returns:
        The folder.
    """
    folder = Path(out)
    try:  # a mistake of input is known before the first image
        check_numbers(n, seed, processes)
        loaded = load_named(generator, kind, options or {})
        check_reproducible(loaded)
        check_image_folder(folder, describe_generation(loaded, n, seed))
    except ValueError as error:
        raise SystemExit(f"{PROG}: {error}") from error
    for line in getattr(loaded, "report", ()):
        print(line)
    write_image_folder(loaded, folder, n, seed, processes)
    return folder


def check_numbers(n: int, seed: int, processes: int) -> None:
    """Refuse numbers of images, seeds or processes that there cannot be.

    Raises:
        ValueError: says which.
    """
    if n < 1 or processes < 1:
        raise ValueError(f"found n={n} and processes={processes}, expected at least 1 of each")
    if not 0 <= seed < 2**64:
        raise ValueError(f"found seed {seed}, expected 0 <= seed < 2**64")

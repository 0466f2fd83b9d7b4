"""`evaluate.py generate`: images of one generator, or a GM data set from several bundled ones and a real set."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import yaml

from datamodules.real import load_real_set
from lightning_modules.cli.parser import SuggestingParser, nearest_keys
from lightning_modules.generators.bundled import bundled_sources, load_bundled, read_manifest
from lightning_modules.generators.checkpoints.load import load_generator
from lightning_modules.generators.gm_fashion import Reals, build_gm_data_set
from lightning_modules.generators.image_folder import check_image_folder, describe_generation, write_image_folder
from lightning_modules.generators.protocol import Generator
from lightning_modules.generators.sampling import check_reproducible

PROG = "evaluate.py generate"
DESCRIPTION = """Write images: of one generator (key `generator`), or a GM data set (key `sources`).

The same bytes for the same seed on any number of processes; a run that was interrupted goes on where it stopped.
`--generator NAME --help` lists the options of the one, the list below is of the other."""


def write_data_set(
    out: str,
    sources: list[str],
    n: int,
    seed: int = 0,
    reals: str = "fashion",
    reals_root: str | None = None,
    real_images: int | None = None,
    manifold_images: int | None = None,
    processes: int = 1,
    use_shipped_images: bool = True,
) -> Path:
    """Write `<out>/<source>/*.png`, `<out>/real-<name>/*.png`, `<out>/manifold-<name>/*.png` and `<out>/sources.yaml`.

    The same bytes for the same seed on any number of processes; a run that was interrupted goes on where it stopped.

    Args:
        out: Folder of the data set.
        sources: Names of bundled sources, `<family>-<model>` each.
        n: Images of each source.
        seed: Of the latents and of the choice of reals.
        reals: Name of the real set; its test split becomes the class `real`, its training split the manifold.
        reals_root: Folder of its files; None for its default place.
        real_images: Reals of the class; None for as many as `n`.
        manifold_images: Reals of the manifold; None for the whole training split.
        processes: Processes that share the sampling.
        use_shipped_images: Copy images that ship with the project instead of sampling them again; the same bytes.

    Returns:
        The folder.
    """
    held_out = load_real_set(reals, reals_root, "test")
    training = load_real_set(reals, reals_root, "train")
    folder = Path(out)
    build_gm_data_set(
        folder,
        sources,
        n,
        seed,
        {
            f"real-{held_out.name}": Reals(
                held_out.pictures, real_images or n, f"{held_out.name}, test split", held_out.licence
            ),
            f"manifold-{training.name}": Reals(
                training.pictures,
                manifold_images or len(training),
                f"{training.name}, training split",
                training.licence,
            ),
        },
        processes=processes,
        use_shipped_images=use_shipped_images,
    )
    return folder


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
        generator: A checkpoint (.pt, .pkl, model.ckpt, diffusers folder, .safetensors), or a bundled source's name.
        n: Number of images.
        seed: Of the latents.
        kind: What the checkpoint must be, `stylegan2` or `latent_diffusion`; `auto` for either.
        options: How images are sampled, such as `truncation: 0.7` or `steps: 50`.
        processes: Processes that share the sampling.

    Returns:
        The folder.
    """
    if n < 1 or processes < 1:
        raise SystemExit(f"{PROG}: found n={n} and processes={processes}, expected at least 1 of each")
    if not 0 <= seed < 2**64:
        raise SystemExit(f"{PROG}: found seed {seed}, expected 0 <= seed < 2**64")
    folder = Path(out)
    try:  # a mistake of input is known before the first image
        loaded = _load(generator, kind, options or {})
        check_reproducible(loaded)
        check_image_folder(folder, describe_generation(loaded, n, seed))
    except ValueError as error:
        raise SystemExit(f"{PROG}: {error}") from error
    for line in getattr(loaded, "report", ()):
        print(line)
    write_image_folder(loaded, folder, n, seed, processes)
    return folder


def generate(args: list[str]) -> Path:
    """Parse the command line, write what it asks for, return the folder."""
    keys = _keys(args)
    if {"generator", "sources"} <= keys:
        raise SystemExit(f"{PROG}: found both `generator` (images of one) and `sources` (a data set); give one of them")
    if not {"generator", "sources"} & keys:
        for key in sorted(keys):
            if near := nearest_keys(key, ["generator", "sources"]):
                raise SystemExit(f"{PROG}: unknown key '{key}': did you mean {near[0]}?")
    command = write_images if "generator" in keys else write_data_set
    about = DESCRIPTION if not {"generator", "sources"} & keys else command.__doc__
    parser = SuggestingParser(prog=PROG, description=about, allow_abbrev=False)
    parser.add_argument("-c", "--config", action="config")
    parser.add_function_arguments(command)
    settings = parser.parse_args(args)
    settings.pop("config", None)
    folder: Path = command(**settings.as_dict())
    return folder


def _load(name: str, kind: str, options: dict[str, Any]) -> Generator:
    small = not Path(name).exists() and name in bundled_sources() and "arguments" in read_manifest()[name]
    if not small:
        return load_generator(name, kind, **options)
    if options or kind != "auto":
        raise ValueError(f"found options or a kind for the bundled source {name}, which has none; leave them out")
    return load_bundled(name)


def _keys(args: list[str]) -> set[str]:
    """Keys that the command line and its config files set, without their values."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("-c", "--config", action="append", default=[])
    configs, rest = parser.parse_known_args(args)
    keys = {arg[2:].partition("=")[0].partition(".")[0] for arg in rest if arg.startswith("--")}
    for config in configs.config:
        try:
            content = yaml.safe_load(Path(config).read_text())
        except (OSError, yaml.YAMLError, UnicodeDecodeError):
            continue  # the parser itself says what is wrong with it
        keys |= {str(key) for key in content} if isinstance(content, dict) else set()
    return keys

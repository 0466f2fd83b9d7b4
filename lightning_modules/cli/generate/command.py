"""`evaluate.py generate`: images of one generator, with a user's key or without, or a GM data set of several.

The signatures of the three `write_*` functions are the options; what they need is imported when they run.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

from lightning_modules.cli.parser import SuggestingParser, nearest_keys
from lightning_modules.common.files import check_folder, describe_place_error
from lightning_modules.common.shipped import program, with_found_configs
from lightning_modules.generators.bundled.manifest import BLACK_BELOW, WHITE_ABOVE

PROG = program("generate")
DESCRIPTION = """Write images: of one generator (key `generator`), those with a user's key in them (keys `fingerprint`
and `user`), or a GM data set (key `sources`).

The same bytes for the same seed on any number of processes; a run that was interrupted goes on where it stopped.
`--generator NAME --help` and `--fingerprint FILE --help` list the options of those, the list below is of the last."""

DECIDING_KEYS = ("generator", "fingerprint", "sources")
"""Keys one of which must be given: they say what is to be made."""

MARKING_KEYS = {"fingerprint", "user", "registry"}
"""Keys that ask for fingerprinted images."""


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
    black_below: int = BLACK_BELOW,
    white_above: int = WHITE_ABOVE,
    reals_center_crop: int | None = None,
    reals_resize: int | None = None,
    reals_max_image_pixels: int = 120_000_000,
) -> Path:
    """Write `<out>/<source>/*.png`, `<out>/real-<name>/*.png`, `<out>/manifold-<name>/*.png` and `<out>/sources.yaml`.

    The same bytes for the same seed on any number of processes; a run that was interrupted goes on where it stopped.

    Args:
        out: Folder of the data set.
        sources: Names of bundled sources: `<family>-<model>` of GM-Fashion, `emoji/<family>-<model>` of GM-Emoji.
        n: Images of each source.
        seed: Of the latents and of the choice of reals.
        reals: Name of the real set; its test split becomes the class `real`, its training split the manifold.
        reals_root: Folder of its files; None for its default place.
        real_images: Reals of the class; None for as many as `n`.
        manifold_images: Reals of the manifold; None for the whole training split.
        processes: Processes that share the sampling.
        use_shipped_images: Copy images that ship with the project instead of sampling them again; the same bytes.
        black_below: 8-bit values below this one become 0 in every image, generated or real, so that the noise in a
            black ground names no source; 0 leaves all pixels as they are.
        white_above: 8-bit values above this one become 255 likewise, for a white ground; 255 leaves all as they are.
        reals_center_crop: Side of the central square to cut out of the reals first, in pixels; None keeps them whole.
        reals_resize: Length of the shorter side to scale the reals to then, in pixels; None keeps it.
        reals_max_image_pixels: Most pixels that a real may have in its file; a larger one is refused by its header.

    Returns:
        The folder.
    """
    from datamodules.images.problems import REALS_OF_OTHERS
    from datamodules.real import load_real_set
    from lightning_modules.generators.bundled.gm_data_set import Reals, build_gm_data_set

    size = {"center_crop": reals_center_crop, "resize": reals_resize}
    held_out, training = (
        load_real_set(
            reals,
            reals_root,
            split,
            center_crop=reals_center_crop,
            resize=reals_resize,
            max_image_pixels=reals_max_image_pixels,
            reader=REALS_OF_OTHERS,
        )
        for split in ("test", "train")
    )
    taken = "".join(f", {name} {side} px" for name, side in size.items() if side is not None)
    folder = Path(out)
    build_gm_data_set(
        folder,
        sources,
        n,
        seed,
        {
            f"real-{held_out.name}": Reals(
                held_out.pictures, real_images or n, f"{held_out.name}, test split{taken}", held_out.licence
            ),
            f"manifold-{training.name}": Reals(
                training.pictures,
                manifold_images or len(training),
                f"{training.name}, training split{taken}",
                training.licence,
            ),
        },
        processes=processes,
        use_shipped_images=use_shipped_images,
        black_below=black_below,
        white_above=white_above,
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
    from lightning_modules.generators.bundled.load import load_named

    def load() -> tuple[Any, list[str]]:
        loaded = load_named(generator, kind, options or {})
        return loaded, list(getattr(loaded, "report", ()))

    return _write(load, Path(out), n, seed, processes)


def write_fingerprinted_images(
    out: str,
    n: int,
    fingerprint: str | None = None,
    user: str | None = None,
    registry: str = "users.json",
    generator: str | None = None,
    seed: int = 0,
    kind: str = "auto",
    options: dict[str, Any] | None = None,
    processes: int = 1,
) -> Path:
    """Write images that carry a user's key, `<out>/0000000.png` and so on, and `<out>/generation.json`.

    The record names the user and the fingerprint, never the key. Give each user's batch a seed of its own: images of
    one seed differ from user to user by their keys alone, so users who compare theirs see what the keys change.

    Args:
        out: Folder of the images.
        n: Number of images.
        fingerprint: File of the fingerprint, a run folder that holds it, or the name of one that ships (`ldm64`).
        user: Id of the user whose key the images carry.
        registry: File of users and keys; `evaluate.py users create` makes one.
        generator: The fingerprint's generator: a checkpoint, a bundled source's name, or a repository of the hub; None
            for the one whose name the fingerprint holds.
        seed: Of the latents; use another for each user's batch.
        kind: What the checkpoint must be, `stylegan2` or `latent_diffusion`; `auto` for either.
        options: How images are sampled, such as `truncation: 0.7` or `steps: 50`, where it is not as the fingerprint
            says; noise maps are the fingerprint's.
        processes: Processes that share the sampling.

    Returns:
        The folder.
    """
    from lightning_modules.cli.generate.fingerprinted import load_marked

    def load() -> tuple[Any, list[str]]:
        marked = load_marked(fingerprint, user, registry, generator, kind, options or {})
        key = f"key of {marked.fingerprint.bits} bits, fingerprint {marked.fingerprint.id[:12]}"
        return marked, [*getattr(marked.unmarked, "report", ()), f"user {marked.user} of {registry}: {key}"]

    return _write(load, Path(out), n, seed, processes)


def _write(load: Callable[[], tuple[Any, list[str]]], folder: Path, n: int, seed: int, processes: int) -> Path:
    """Write the images of the generator that `load` gives, after the lines that it tells about it."""
    from lightning_modules.generators.image_folder import check_image_folder, describe_generation, write_image_folder
    from lightning_modules.generators.image_writing import check_reproducible

    try:  # a mistake of input is known before the first image
        if n < 1 or processes < 1:
            raise ValueError(f"found n={n} and processes={processes}, expected at least 1 of each")
        if not 0 <= seed < 2**64:
            raise ValueError(f"found seed {seed}, expected 0 <= seed < 2**64")
        generator, lines = load()
        check_reproducible(generator)
        check_image_folder(folder, describe_generation(generator, n, seed))
        print(*lines, sep="\n", end="\n" * bool(lines))
        write_image_folder(generator, folder, n, seed, processes)
    except (ValueError, OSError) as error:
        raise SystemExit(f"{PROG}: {describe_place_error(error) or error}") from error
    return folder


def generate(args: list[str]) -> Path:
    """Parse the command line, write what it asks for, return the folder."""
    try:
        args = with_found_configs(args)
    except FileNotFoundError as error:
        raise SystemExit(f"{PROG}: {error}") from error
    keys, readable = _keys(args)
    marks = sorted(keys & MARKING_KEYS)
    others = ["generator"] if "generator" in keys else marks
    if "sources" in keys and others:
        raise SystemExit(
            f"{PROG}: found both `{others[0]}` (images of one) and `sources` (a data set); give one of them"
        )
    named = bool(keys & {*DECIDING_KEYS, *marks})
    if not named:
        for key in sorted(keys):
            if near := nearest_keys(key, list(DECIDING_KEYS)):
                raise SystemExit(f"{PROG}: unknown key '{key}': did you mean {near[0]}?")
        if readable and not any(arg in ("-h", "--help") or arg.startswith("--print_config") for arg in args):
            raise SystemExit(
                f"{PROG}: found none of `generator` (images of one), `fingerprint` (those with a user's key in them) "
                "and `sources` (a data set); give one of them, or a --config of configs/generate, configs/gm_fashion "
                "or configs/gm_emoji"
            )
    command: Callable[..., Path] = write_data_set
    if named and "sources" not in keys:
        command = write_fingerprinted_images if marks else write_images
    parser = SuggestingParser(prog=PROG, description=command.__doc__ if named else DESCRIPTION, allow_abbrev=False)
    parser.add_argument("-c", "--config", action="config")
    parser.add_function_arguments(command)
    settings = parser.parse_args(args)
    settings.pop("config", None)
    check_folder(Path(settings["out"]), "--out")
    print(out := command(**settings.as_dict()))
    return out


def _keys(args: list[str]) -> tuple[set[str], bool]:
    """Keys that the command line and its config files set, without their values; and whether all files were read."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("-c", "--config", action="append", default=[])
    configs, rest = parser.parse_known_args(args)
    readable = True
    keys = {arg[2:].partition("=")[0].partition(".")[0] for arg in rest if arg.startswith("--")}
    for config in configs.config:
        try:
            content = yaml.safe_load(Path(config).read_text())
        except (OSError, yaml.YAMLError, UnicodeDecodeError):
            readable = False  # the parser itself says what is wrong with it
            continue
        keys |= {str(key) for key in content} if isinstance(content, dict) else set()
    return keys, readable

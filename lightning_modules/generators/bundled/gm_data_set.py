"""Building GM-Fashion or GM-Emoji on disk: one folder of PNG files per source, reals, manifold, `sources.yaml`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import yaml
from numpy.typing import NDArray

from lightning_modules.common.files import remove_partials, write_text
from lightning_modules.common.progress import Progress
from lightning_modules.common.random_streams import stream_of
from lightning_modules.generators.bundled.manifest import (
    BLACK_BELOW,
    WHITE_ABOVE,
    folder_name,
    manifest_entry,
    shipped_images,
)
from lightning_modules.generators.image_writing import generate_sources, image_path, on_one_ground, write_png
from lightning_modules.generators.protocol import Generator
from lightning_modules.generators.small_networks.base import FRAME

FACTS = ("upsampling", "downsampling", "normalisation", "non_linearity", "skip", "loss")


class Pictures(Protocol):
    """Real images as a sequence."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> NDArray[np.uint8]:
        """Image `index`, uint8 `(H, W, 3)`."""


@dataclass(frozen=True)
class Reals:
    """Real images of one folder of the data set."""

    pictures: Pictures
    n: int  # how many to draw
    origin: str  # the set and split they come from, for `sources.yaml`
    licence: str


def build_gm_data_set(
    out: Path,
    sources: Sequence[str] | Mapping[str, Generator],
    n: int,
    seed: int,
    reals: Mapping[str, Reals],
    processes: int = 1,
    use_shipped_images: bool = True,
    progress: bool = True,
    black_below: int = BLACK_BELOW,
    white_above: int = WHITE_ABOVE,
) -> None:
    """Write `out/<source>/*.png` for every source and every set of reals, and `out/sources.yaml`.

    The bytes depend on the arguments other than `processes`, `use_shipped_images` and `progress` alone. A build that
    was interrupted goes on where it stopped; with a larger `n` it is extended. Images of another seed or other weights
    are never mixed in: `sources.yaml` is written first and says what the folder is being filled with.

    Args:
        out: folder of the data set; made if needed.
        sources: names of bundled sources, whose folder is the part after the last `/`, or generators by the name of
            their folder.
        n: images of each source.
        seed: seed of the latents and of the choice of reals.
        reals: real images by the name of their folder, such as `real-fashion` and `manifold-fashion`.
        processes: processes that share the sampling.
        use_shipped_images: copy images that are shipped instead of sampling them again; same bytes, less time.
        progress: show progress bars.
        black_below: 8-bit values below this one become 0 in every image, generated or real; 0 changes none.
        white_above: 8-bit values above this one become 255 likewise; 255 changes none.

    Raises:
        ValueError: a source that is not bundled, too few reals, a ground outside 0 to 255, or `out` holds images
            made in another way.
    """
    for name, real in reals.items():
        if not 0 < real.n <= len(real.pictures):
            raise ValueError(f"{name}: found {len(real.pictures)} images in {real.origin}, asked for {real.n}")
    if not 0 <= black_below <= 255:
        raise ValueError(f"found black_below={black_below}, expected an 8-bit value, 0 to 255 (0 changes no pixel)")
    if not black_below <= white_above <= 255:
        raise ValueError(
            f"found white_above={white_above} and black_below={black_below}, expected an 8-bit value, at least that "
            "and at most 255 (255 changes no pixel)"
        )
    generators: dict[str, Generator | str] = dict(sources) if isinstance(sources, Mapping) else _by_folder(sources)
    ground = {"black_below": black_below}
    if white_above != WHITE_ABOVE:  # not written where it changes nothing, as in data sets that know no such setting
        ground["white_above"] = white_above
    description = _describe(generators, n, seed, reals, ground)
    _check_folder(out, description)
    out.mkdir(parents=True, exist_ok=True)
    write_text(out / "sources.yaml", yaml.safe_dump(description, sort_keys=False))

    for name, real in reals.items():
        _write_reals(out / name, real, seed, progress, name, ground)
    if use_shipped_images:
        bundled = {name: source for name, source in generators.items() if isinstance(source, str)}
        for name, source in bundled.items():
            _write_shipped(out / name, source, n, seed, ground)
    folders = {name: out / name for name in generators}
    generate_sources(generators, folders, n, seed, processes, progress, **ground)


def choose_reals(available: int, n: int, seed: int) -> NDArray[np.int64]:
    """Positions of n different images out of `available`, int64 `(n,)`; a larger n only adds to a smaller one."""
    order = stream_of(seed, 0).permutation(available)
    return order[:n]


def _write_reals(folder: Path, real: Reals, seed: int, progress: bool, name: str, ground: dict[str, int]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    remove_partials(folder)
    chosen = choose_reals(len(real.pictures), real.n, seed)
    with Progress(f"writing {name}", len(chosen), shown=progress) as written:
        for index, position in enumerate(chosen):
            path = image_path(folder, index)
            if not path.is_file():
                write_png(on_one_ground(real.pictures[int(position)], **ground), path)
            written.update(1)


def _write_shipped(folder: Path, source: str, n: int, seed: int, ground: dict[str, int]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for index, image in enumerate(shipped_images(source, seed)[:n]):
        path = image_path(folder, index)
        if not path.is_file():
            framed = image if image.ndim == 3 else np.repeat(np.pad(image, FRAME)[:, :, None], 3, axis=2)
            write_png(on_one_ground(framed, **ground), path)


def _by_folder(sources: Sequence[str]) -> dict[str, Generator | str]:
    """Bundled sources by the name of their folder, each of them another."""
    found: dict[str, Generator | str] = {}
    for source in sources:
        folder = folder_name(source)
        if (other := found.setdefault(folder, source)) != source:
            raise ValueError(f"found sources {other} and {source}, both of folder {folder}; give one of them")
    return found


def _describe(
    generators: Mapping[str, Generator | str], n: int, seed: int, reals: Mapping[str, Reals], ground: dict[str, int]
) -> dict[str, dict[str, Any]]:
    description: dict[str, dict[str, Any]] = {}
    for name, generator in generators.items():
        made = {"images": n, "seed": seed, **ground}
        if not isinstance(generator, str):
            description[name] = {"family": name.partition("-")[0], **made}
        else:
            entry, _ = manifest_entry(generator)
            known = ("family", *FACTS, "training_set", "licence", "sha256")
            description[name] = {**{key: entry[key] for key in known}, **made}
    for name, real in reals.items():
        facts = {"family": name.partition("-")[0], "origin": real.origin, "licence": real.licence}
        description[name] = {**facts, "images": real.n, "seed": seed, **ground}
    return description


def _check_folder(out: Path, description: dict[str, dict[str, Any]]) -> None:
    path = out / "sources.yaml"
    if not path.is_file():
        if out.is_dir() and any(out.iterdir()):
            raise ValueError(f"found files but no sources.yaml in {out}, expected a new folder or a data set of ours")
        return
    found = yaml.safe_load(path.read_text())
    for name in found:
        if name not in description:
            raise ValueError(f"{out}: found source {name}, which is not asked for; choose another folder")
        # a larger number of images extends what is there; every other difference would mix two data sets
        same = {**found[name], "images": 0} == {**description[name], "images": 0}
        if not same or found[name]["images"] > description[name]["images"]:
            raise ValueError(
                f"{out}: found {name} made as {found[name]}, expected {description[name]}; choose another folder"
            )

"""Folder forms of published data sets as rows of an index file."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

import pandas as pd

from datamodules.gm_index.sources import discover_folders
from datamodules.images.image_io import path_text
from datamodules.images.image_search import LeftOut, find_images
from datamodules.images.problems import Kind, Problems
from lightning_modules.common.tables import Table

LAYOUTS = Table(
    "layout",
    {
        "gm": "datamodules.gm_index.layouts:list_gm",
        "genimage": "datamodules.gm_index.layouts:list_genimage",
        "imageattributionbench": "datamodules.gm_index.layouts:list_imageattributionbench",
    },
)
"""Functions `(root, problems, left_out) -> table` with the columns ``path`` (from ``root``, with '/'), ``source`` and
those that the folders tell besides, such as ``split``; ordered by path."""

UNDISCLOSED, UNKNOWN = "closed", "other"
"""Families of generators whose makers say nothing of their design, and of folders that no table here has."""
_VALIDATION, _MANIFOLD = 0.1, 0.5  # of GenImage's training images, and of its real ones among them
_SPLITS = {"train": "train", "val": "test"}  # its "val" is what methods are tested on
_DATED = re.compile(r"^imagenet_(ai_\d{4}_)?")  # the archives unpack to imagenet_ai_0419_biggan/ and the like
_PROMPT = re.compile(r"_p(\d+)_i\d+")

GENIMAGE = {
    "midjourney": "closed-midjourney",
    "stablediffusionv14": "score-sd1.4",
    "sdv4": "score-sd1.4",
    "stablediffusionv15": "score-sd1.5",
    "sdv5": "score-sd1.5",
    "adm": "score-adm",
    "glide": "score-glide",
    "wukong": "score-wukong",
    "vqdm": "score-vqdm",
    "biggan": "gan-biggan",
}
"""Source of each generator's folder, whose name is in small letters and digits alone."""
IMAGE_ATTRIBUTION_BENCH = {
    **dict.fromkeys(("4o", "dalle3", "gemini", "grok3", "ideogram", "kling", "mid52", "mid60"), UNDISCLOSED),
    **dict.fromkeys(("cogview3plus", "flux", "kandinsky", "pixart", "playground25"), "score"),
    **dict.fromkeys(("sd15", "sd21", "sd3", "sd35", "sdxl", "hidream", "hunyuan"), "score"),
    **dict.fromkeys(("infinity", "januspro"), "autoregressive"),
}
"""Family of each model's folder, whose name is in small letters and digits alone."""


def list_gm(root: Path, problems: Problems, left_out: list[LeftOut]) -> pd.DataFrame:
    """``root/<family>-<model>/``, ``root/real-<name>/``, ``root/manifold-<name>/``: what needs no index."""
    return discover_folders(root, problems, left_out)[["path", "source"]]


def list_genimage(root: Path, problems: Problems, left_out: list[LeftOut]) -> pd.DataFrame:
    """GenImage (Zhu et al. 2023): ``GENERATOR/{train,val}/{ai,nature}/``, or the same one folder further down.

    That folder is the archive's, ``imagenet_ai_0419_biggan``, which may stand for the generator as well. The split
    ``test`` is its ``val``. Of each source's ``train`` a tenth is the split ``val``, and of the reals there half is the
    manifold, chosen by the hash of the path. The reals of all folders are one source, ``real-imagenet``.
    """
    rows: list[tuple[str, str, str]] = []
    for folder in _folders(root, problems):
        inside = [folder, *(Path(item) for item in _below(folder))]
        generators = [each for each in inside if any((each / split).is_dir() for split in _SPLITS)]
        if not generators:
            problems.add(Kind.LAYOUT, f"{_relative(folder, root)}/ has neither train/ nor val/, nor has a folder in it")
        for generator in generators:
            source = _genimage_source(folder.name, generator.name)
            for split in _SPLITS:
                parts = {generator / split / "ai": source, generator / split / "nature": "real-imagenet"}
                there = {part: name for part, name in parts.items() if part.is_dir()}
                if (generator / split).is_dir() and not there:
                    problems.add(Kind.LAYOUT, f"{_relative(generator / split, root)}/ has neither ai/ nor nature/")
                for part, name in there.items():
                    rows += [(path, name, _SPLITS[split]) for path in _images(part, root, problems, left_out)]
    table = pd.DataFrame(rows, columns=["path", "source", "split"], dtype="str")
    training = table["split"] == "train"
    for source in sorted(set(table.loc[training, "source"])):
        drawn = table.loc[training & (table["source"] == source), "path"].map(_place).sort_values(kind="stable").index
        reserved = round(_VALIDATION * len(drawn))
        table.loc[drawn[:reserved], "split"] = "val"
        if source.startswith("real-"):
            table.loc[drawn[reserved : reserved + round(_MANIFOLD * len(drawn))], "split"] = "manifold"
    return table.sort_values("path", kind="stable", ignore_index=True)


def list_imageattributionbench(root: Path, problems: Problems, left_out: list[LeftOut]) -> pd.DataFrame:
    """ImageAttributionBench (2025): ``MODEL/CLASS/`` and ``MODEL/KIND/CLASS/``, with the folder ``real`` among models.

    Columns ``class`` (``dog``, ``COCO``) and ``kind`` (``AnimalFace``, ``COCO``) for `train_where`; and ``group``: the
    images that models made from one prompt, by ``_p<prompt>_i<number>`` in their names.
    """
    rows: list[tuple[str, ...]] = []
    for folder in _folders(root, problems):
        source = _attribution_source(folder.name)
        loose = 0
        for path in _images(folder, root, problems, left_out):
            within = path.split("/")[1:-1]
            if not within:
                loose += 1
                continue
            prompt = _PROMPT.search(path.rsplit("/", 1)[-1])
            group = f"{within[-1]}/p{prompt[1]}" if prompt and folder.name != "real" else ""
            rows.append((path, source, group, within[-1], within[0]))
        if loose:
            problems.add(Kind.LAYOUT, f"{_relative(folder, root)}/ holds {loose} images outside any folder of a class")
    table = pd.DataFrame(rows, columns=["path", "source", "group", "class", "kind"], dtype="str")
    return table.sort_values("path", kind="stable", ignore_index=True)


def unknown_sources(table: pd.DataFrame) -> list[str]:
    """Sources whose family no table here has."""
    return sorted({source for source in table["source"] if source.startswith(f"{UNKNOWN}-")})


def _genimage_source(folder: str, generator: str) -> str:
    for name in (folder, generator):
        key = _key(_DATED.sub("", name))
        if key in GENIMAGE:
            return GENIMAGE[key]
    return f"{UNKNOWN}-{_plain(folder)}"


def _attribution_source(folder: str, families: Mapping[str, str] = IMAGE_ATTRIBUTION_BENCH) -> str:
    if folder == "real":
        return "real-imageattributionbench"
    return f"{families.get(_key(folder), UNKNOWN)}-{_plain(folder)}"


def _key(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())


def _plain(name: str) -> str:
    """A folder's name as the part of a source's after its family."""
    return re.sub(r"[^A-Za-z0-9._+-]+", "_", name).lstrip("._+-") or "unnamed"


def _place(path: str) -> str:
    return hashlib.blake2b(path.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()


def _folders(root: Path, problems: Problems) -> Iterator[Path]:
    """Folders of generators, by name."""
    if not root.is_dir():
        problems.add(Kind.LAYOUT, f"{path_text(root)} is {'a file' if root.exists() else 'not there'}")
        return
    found = _below(root)
    if not found:
        problems.add(Kind.LAYOUT, f"{path_text(root)} holds no folder")
    yield from map(Path, found)


def _below(folder: Path) -> list[str]:
    return sorted(item.path for item in os.scandir(folder) if item.is_dir() and not item.name.startswith((".", "_")))


def _relative(path: Path, root: Path) -> str:
    return path_text(os.path.relpath(path, root))


def _images(folder: Path, root: Path, problems: Problems, left_out: list[LeftOut]) -> list[str]:
    """Paths from the root, as `path_text` writes them, of the images in a folder, which must hold some."""
    found = find_images(folder, (".", "_"))
    for unreadable in found.unreadable:
        problems.add(Kind.UNREADABLE, f"{unreadable.path}: {unreadable.reason}")
    left_out += found.left_out
    if not found.files and not found.unreadable:
        problems.add(Kind.LAYOUT, f"{_relative(folder, root)}/ holds no image")
    return [_relative(file, root) for file in found.files]

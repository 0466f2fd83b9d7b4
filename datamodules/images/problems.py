"""The one list of everything wrong with a GM data set, and the one error that shows it."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from enum import Enum

_SETTING = re.compile(r"\{([a-z_]+(?:: \w+)?)\}")
SHOWN_PER_KIND = 20  # a reader acts on the first few; the count says the rest


class Kind(Enum):
    """A kind of problem: what it is, what was expected, what to do about it.

    Settings stand in braces, ``{resize}`` or ``{reencode: png}``: each command names them as it takes them.
    """

    MISSING_ROOT = (
        "missing folder",
        "a folder root/<family>-<model>/ for each source and root/real-<name>/",
        "check {root}, or write the data set there first",
    )
    EMPTY_ROOT = (
        "no source folder",
        "at least two folders <family>-<model> or real-<name> with images",
        "check {root}: it must be the folder above the source folders",
    )
    FOLDER_NAME = (
        "folder whose name has no known form",
        "<family>-<model> (gan-dcgan), real-<name> (real-celeba) or manifold-<name>, of letters, digits and ._+-",
        "rename the folder; a name that starts with '.' or '_' is left alone",
    )
    EMPTY_SOURCE = (
        "source folder without images",
        "at least one image file of any kind that Pillow reads",
        "fill the folder or remove it",
    )
    LOOSE_IMAGE = (
        "image outside any source folder",
        "images lie in root/<family>-<model>/",
        "move it into the folder of its source or remove it",
    )
    UNREADABLE = (
        "file or folder that cannot be read completely",
        "a whole image file of any kind that Pillow reads",
        "write or copy it again, or remove it",
    )
    UNSUPPORTED = (
        "image of a kind that 8-bit RGB would distort",
        "one still picture of 8 bits per channel, grey or RGB",
        "convert it to 8-bit PNG, all such files the same way",
    )
    TRANSPARENT = (
        "image that is not opaque",
        "an opaque picture: what lies under transparent pixels is nothing that anybody sees",
        "put it on the ground that it is shown on and save it without an alpha channel, all such files the same way",
    )
    TOO_LARGE = (
        "image beyond the pixel limit",
        "a picture of no more pixels than {max_image_pixels}, by its header",
        "remove it, scale it down or cut it; or raise {max_image_pixels}, if there is memory for it",
    )
    CROP_TOO_LARGE = (
        "image smaller than the crop",
        "height and width of at least {center_crop}",
        "lower {center_crop} or remove the image",
    )
    MIXED_SIZES = (
        "images of different sizes",
        "one height and width for all images",
        "bring all images to one size the same way, or set {center_crop} and/or {resize}",
    )
    WRONG_SIZE = (
        "image of another size than the checkpoint was trained for",
        "the height and width of the training's images",
        "bring it to that size the way the training's images were, or set {center_crop} and/or {resize}",
    )
    ONE_SOURCE = (
        "too few sources",
        "at least two sources to tell apart",
        "add a folder <family>-<model> or real-<name>",
    )
    UNKNOWN_SOURCE = (
        "sources that cannot be held out as unknown",
        "names of sources of the data set, which leave two at least to be told apart",
        "correct unknown_sources (--data.init_args.unknown_sources '[NAME]')",
    )
    NO_REAL = (
        "no real images for the manifold",
        "a folder real-<name> (it is then split in four) or manifold-<name>",
        "add the real images that the generators were trained on",
    )
    DUPLICATE_SOURCES = (
        "picture that several sources share",
        "each picture (decoded pixels) in one source only: its label would be ambiguous",
        "remove it from all sources but one, or set {duplicates: drop} to leave out every copy",
    )
    MANIFOLD_OVERLAP = (
        "picture that stands in the manifold and in a source",
        "reals of the manifold and images to attribute are disjoint: a picture in both has the artifact zero",
        "remove it from one of the two",
    )
    DUPLICATE_SPLITS = (
        "picture in several splits",
        "train, val, test and manifold are disjoint by decoded pixels",
        "remove all copies but one, or give them the same split",
    )
    GROUP_SPLITS = (
        "group in several splits",
        "train, val, test and manifold are disjoint by group: images of one photograph or prompt stand in one of them",
        "give all images of the group one split, or name another {split_file} to write a new one",
    )
    GROUPS = (
        "groups that cannot be told",
        "a column group in the index file, or {groups} (stem, or a regular expression that finds the group's name in "
        "the file's name without suffix), not both",
        "correct {groups}, or leave it out",
    )
    TOO_FEW = (
        "source with fewer images than the split needs",
        "at least one image of every source in each split whose fraction is not 0",
        "add images, or change {train_fraction}, {val_fraction}, {test_fraction} or {manifold_fraction}",
    )
    LAYOUT = (
        "folder that does not fit the layout",
        "genimage: GENERATOR/train/ and val/ with ai/ and nature/ inside; imageattributionbench: MODEL/CLASS/ or "
        "MODEL/KIND/CLASS/, with real/ among the models",
        "name the folder above those of the generators; --layout gm is <family>-<model>/; or list the images in a CSV "
        "file and give it as --csv",
    )
    INDEX_FILE = (
        "bad index file",
        "a .csv or .parquet file with the columns path, source and, if wanted, split, group, that of {train_where}",
        "correct the file named by {index_file}",
    )
    INDEX_ROW = (
        "bad row in the index file",
        "path of an image file; source <family>-<model> or real-<name>; split train, val, test or "
        "manifold (only reals), in all rows or in none",
        "correct the row (rows are counted from 1, the header left out)",
    )
    MISSING_PATH = (
        "path in the index file that does not exist",
        "paths relative to {root} (without it, to the folder of the index file), or absolute",
        "correct the path or the row's file, or set {root}",
    )
    SPLIT_FILE = (
        "split file that does not fit",
        "a split file written with the same seed, fractions and caps, whose images are all there",
        "give the settings it was written with, restore the images, or name another {split_file} to write a new one",
    )
    SOURCES_YAML = (
        "bad sources.yaml or designs.yaml",
        "a mapping from folder names of this data set to mappings of plain values",
        "correct the file or remove it",
    )
    FORMAT_LEAK = (
        "sources that can be told apart without looking at the pixels",
        "file format, JPEG tables, size and mode say nothing about the source",
        "store all sources the same way; or set {reencode: png} or {reencode: jpeg_95} (size and mode still count); "
        "or {format_audit: warn}",
    )

    def __init__(self, title: str, expected: str, fix: str) -> None:
        self.title, self.expected, self.fix = title, expected, fix

    @property
    def settings(self) -> list[str]:
        """Settings that the advice names."""
        return [found.partition(":")[0] for found in _SETTING.findall(self.expected + self.fix)]


@dataclass(frozen=True)
class Reader:
    """Who reads the images: what its messages say besides what was found.

    Attributes:
        outcome: What did not happen, and what else could be done about it.
        setting: How a setting is given, with ``{}`` for its name and value.
    """

    outcome: str
    setting: str = "`{}`"

    def spell(self, text: str) -> str:
        """Advice of a ``Kind`` with its settings as this reader takes them."""
        return _SETTING.sub(lambda found: self.setting.format(found[1]), text)


GM_DATA = Reader("nothing was trained or evaluated")
REALS = Reader("no real image was used")
REALS_OF_OTHERS = Reader(REALS.outcome, "`reals_{}`")  # of commands that have other images too
LISTING = Reader("no index was written", "{}")
PREDICTION = Reader(
    "nothing was predicted; `--skip_unreadable true` goes on without such files and writes the reason in their rows",
    "`--{}`",
)
NOTHING_LEFT = Reader("nothing was predicted, as no file can be used", PREDICTION.setting)
DISTANCES = Reader("no distance was computed", "`--{}`")


def counted(count: int, noun: str = "image") -> str:
    """``1 image``, ``2 images``."""
    return f"{count} {noun}{'' if count == 1 else 's'}"


class GMDataError(ValueError):
    """A data set that cannot be trained on; the message lists every problem found."""


@dataclass
class Problems:
    """Collects problems by kind, in the order of discovery, so that all of them are reported at once."""

    where: str
    reader: Reader = GM_DATA
    found: dict[Kind, list[str]] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return bool(self.found)

    def add(self, kind: Kind, found: str) -> None:
        """Note one offender: what was found, and where."""
        self.found.setdefault(kind, []).append(found)

    def message(self) -> str:
        """The whole report, kind by kind; long lists end with a count."""
        count = sum(len(offenders) for offenders in self.found.values())
        blocks = [f"{self.where}: {counted(count, 'problem')}, {self.reader.outcome}."]
        for kind in sorted(self.found, key=list(Kind).index):
            offenders = self.found[kind]
            lines = [
                f"{kind.title} ({len(offenders)})",
                f"  expected: {self.reader.spell(kind.expected)}",
                f"  what to do: {self.reader.spell(kind.fix)}",
                "  found:",
            ]
            lines += ["    - " + offender.replace("\n", "\n      ") for offender in offenders[:SHOWN_PER_KIND]]
            if len(offenders) > SHOWN_PER_KIND:
                lines.append(f"    ... and {len(offenders) - SHOWN_PER_KIND} more")
            blocks.append("\n".join(lines))
        return "\n\n".join(blocks)

    def raise_if_any(self) -> None:
        """Raise the one error.

        Raises:
            GMDataError: There is at least one problem.
        """
        if self:
            raise GMDataError(self.message())

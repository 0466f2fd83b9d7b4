"""Image files below a folder, or those that a pattern names: every file is either found or left out with a reason."""

from __future__ import annotations

import glob
import json
import os
from dataclasses import dataclass, field
from pathlib import Path

from datamodules.images.image_io import has_image_suffix, is_image_file, path_text
from lightning_modules.common.files import write_text

NO_IMAGE = "no image"
_SHOWN = 3  # names shown for each reason


@dataclass(frozen=True)
class LeftOut:
    """A file or folder that is not read.

    Attributes:
        path: As ``path_text`` writes it; a folder's ends with '/'.
        reason: Why.
        as_path: What it was found as, where it was reached twice.
    """

    path: str
    reason: str
    as_path: str = ""


@dataclass
class FoundImages:
    """What a search found.

    Attributes:
        files: The images, sorted by path; some may turn out to be damaged.
        left_out: Every other file, and folders that were not searched.
        unreadable: Folders that cannot be opened.
    """

    files: list[Path] = field(default_factory=list)
    left_out: list[LeftOut] = field(default_factory=list)
    unreadable: list[LeftOut] = field(default_factory=list)


def find_images(folder: Path, set_aside: tuple[str, ...] = (".",)) -> FoundImages:
    """Image files in a folder and its sub-folders, by their suffix or, where that says nothing, by their content.

    Links to folders and files are followed. What is reached twice is found once: under its own name rather than through
    a link. A link to a folder above the searched one is not followed. Sub-folders whose names begin with one of
    ``set_aside`` are not searched; files are left out by name only where it begins with '.'.
    """
    search = _Search(set_aside)
    search.below(os.fspath(folder))
    return search.found()


def search_images(images: str) -> FoundImages:
    """Image files that a path or pattern names.

    That is a file; a folder, which is searched with its sub-folders; or a glob of files and folders, with ``**`` for
    folders of any depth. Brackets, stars and question marks in a name that exists are literal.

    Raises:
        FileNotFoundError: Nothing there is an image.
    """
    path = os.path.expanduser(images)  # noqa: PTH111 (a Path would take './' and '//' away)
    search = _Search((".",))
    if os.path.isdir(path):  # noqa: PTH112
        search.below(path)
        what, expected = "a folder without images", "a folder with images of any kind that Pillow reads"
    elif os.path.lexists(path):
        return FoundImages([Path(path)])
    else:
        matches = _matches(path)
        for match in matches:
            search.match(match)
        what = f"{len(matches)} matches and no image" if matches else "nothing"
        expected = "an image file, a folder of images, or a glob that matches some; check the path"
    found = search.found()
    if not found.files and not found.unreadable:
        named = f" ({left_out_text(found.left_out)})" if found.left_out else ""
        raise FileNotFoundError(f"found {what} at {path_text(images)}{named}, expected {expected}")
    return found


def left_out_text(left_out: list[LeftOut]) -> str:
    """What was left out, in one line: how many for each reason, and the first names."""
    reasons: dict[str, list[str]] = {}
    for item in left_out:
        reasons.setdefault(item.reason, []).append(item.path + (f" (as {item.as_path})" if item.as_path else ""))
    parts = []
    for reason, paths in reasons.items():
        more = f" and {len(paths) - _SHOWN:,} more" if len(paths) > _SHOWN else ""
        parts.append(f"{len(paths):,} {reason}: {', '.join(paths[:_SHOWN])}{more}")
    return "; ".join(parts)


def left_out_line(files: int, left_out: list[LeftOut], all_in: Path | None = None) -> str:
    """One line that accounts for every file: those taken, those left out and why, and the file that lists all of it."""
    where = f"; all are listed in {path_text(all_in)}" if all_in is not None else ""
    images = f"{files:,} image{'' if files == 1 else 's'}"
    return f"found {images}, left {len(left_out):,} out ({left_out_text(left_out)}){where}"


def write_left_out(path: Path, left_out: list[LeftOut]) -> None:
    """Write all that was left out as JSON lines ``{"file", "reason", "as"}``, atomically."""
    rows = ({"file": item.path, "reason": item.reason, "as": item.as_path or None} for item in left_out)
    write_text(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


class _Search:
    """One search, which may begin at several places; paths are strings, as a Path for each would cost more than it."""

    def __init__(self, set_aside: tuple[str, ...]) -> None:
        self.set_aside = set_aside
        self.folders: dict[str, str] = {}  # real path of each folder searched -> path it was reached by
        self.files: dict[str, str] = {}  # the same of each image
        self.left_out: list[LeftOut] = []
        self.unreadable: list[LeftOut] = []
        self.only_folders = False

    def found(self) -> FoundImages:
        return FoundImages(
            [Path(path) for path in sorted(self.files.values())],
            sorted(self.left_out, key=lambda item: item.path),
            self.unreadable,
        )

    def below(self, start: str) -> None:
        """Search a folder: first what lies in it, then what it links to."""
        root = os.path.realpath(start)
        links = self._walk(start, root)
        while links:
            further: list[str] = []
            for link in sorted(links):
                target = os.path.realpath(link)
                if not os.path.isdir(link):  # noqa: PTH112
                    self._linked_file(link, target)
                elif f"{root}/".startswith(target.rstrip("/") + "/"):
                    self._leave(f"{link}/", "links to a folder above")
                else:
                    further += self._walk(link, target)
            links = further

    def match(self, path: str) -> None:
        """Take what a pattern matched."""
        if os.path.isdir(path):  # noqa: PTH112
            self.below(path)
        elif os.path.islink(path):  # noqa: PTH114
            self._linked_file(path, os.path.realpath(path))
        elif os.path.isfile(path):  # noqa: PTH113
            self._file(path, os.path.realpath(path))
        else:
            self._leave(path, "no regular file")

    def _walk(self, path: str, real: str) -> list[str]:
        """Search a folder and what lies below it; returns the links that were met."""
        links, pending = [], [(path, real)]
        while pending:
            path, real = pending.pop()
            if real in self.folders:
                if path != self.folders[real]:
                    self._leave(f"{path}/", "searched already", f"{self.folders[real]}/")
                continue
            self.folders[real] = path
            try:
                with os.scandir(path) as entries:
                    listed = list(entries)
            except OSError as error:
                self.unreadable.append(LeftOut(f"{path_text(path)}/", str(error.strerror or error)))
                continue
            for entry in listed:
                hidden = entry.name.startswith(".")
                if entry.is_symlink() and not hidden:
                    if not entry.name.startswith(self.set_aside) or not entry.is_dir():
                        links.append(entry.path)
                    else:
                        self._leave(f"{entry.path}/", "set aside by name")
                elif entry.is_dir():
                    if not entry.name.startswith(self.set_aside):
                        pending.append((entry.path, os.path.join(real, entry.name)))  # noqa: PTH118
                    elif not hidden:
                        self._leave(f"{entry.path}/", "set aside by name")
                elif hidden:
                    self._leave(entry.path, "hidden")
                elif entry.is_file():
                    self._file(entry.path, os.path.join(real, entry.name))  # noqa: PTH118
                else:
                    self._leave(entry.path, "no regular file")
        return links

    def _linked_file(self, link: str, target: str) -> None:
        if os.path.isfile(target):  # noqa: PTH113
            self._file(link, target)
        elif has_image_suffix(link) and not os.path.exists(target):  # noqa: PTH110
            self.files.setdefault(link, link)  # an image that is missing: who reads it says so
        else:
            self._leave(link, "broken link" if not os.path.exists(target) else "no regular file")  # noqa: PTH110

    def _file(self, path: str, real: str) -> None:
        if self.only_folders:
            return
        if real in self.files:
            if path != self.files[real]:
                self._leave(path, "found already", self.files[real])
        elif is_image_file(path):
            self.files[real] = path
        else:
            self._leave(path, NO_IMAGE)

    def _leave(self, path: str, reason: str, as_path: str = "") -> None:
        if not self.only_folders:
            self.left_out.append(LeftOut(path_text(path), reason, path_text(as_path)))


def _folders_below(folder: str) -> list[str]:
    search = _Search((".",))
    search.only_folders = True
    search.below(folder)
    return sorted(search.folders.values())


def _matches(pattern: str) -> list[str]:
    """What a glob matches, sorted; a part of it that exists as it is written is taken literally."""
    drive, *parts = Path(pattern).parts
    prefixes = [""] if drive != os.sep else [drive]
    parts = [drive, *parts] if drive != os.sep else parts
    for part in parts:
        grown: set[str] = set()
        for prefix in prefixes:
            literal = os.path.join(prefix, part)  # noqa: PTH118
            if part == "**":
                grown.update(_folders_below(prefix or os.curdir))
            elif not glob.has_magic(part) or os.path.lexists(literal):
                grown.add(literal)
            else:
                grown.update(glob.glob(os.path.join(glob.escape(prefix), part)))  # noqa: PTH118, PTH207
        prefixes = sorted(grown)
    return [path for path in prefixes if os.path.lexists(path)]

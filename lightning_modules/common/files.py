"""Files written whole or not at all, and places looked at before the work whose results go there."""

from __future__ import annotations

import errno
import hashlib
import os
import re
import secrets
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path, PurePath

PARTIAL = ".partial"
PLACE_ERRORS = {
    errno.EACCES: "change its permissions, or name another place",
    errno.EPERM: "change its permissions, or name another place",
    errno.EROFS: "name another place",
    errno.ENOTDIR: "name another place",
    errno.EISDIR: "name another place",
    errno.ENAMETOOLONG: "name another place",
    errno.ENOSPC: "what is finished is whole; free some space and give the same command again",
    errno.EDQUOT: "what is finished is whole; free some space and give the same command again",
    errno.EFBIG: "what is finished is whole; name a place on another file system",
}
"""Errors of a place to write to, with what to do about them."""
_PROBE = bytes(4096)
_RUST = re.compile(r"\(os error (\d+)\)")


class PlaceError(OSError):
    """A place that results cannot go to, found before the work; its text is one line for people."""

    def __str__(self) -> str:
        return str(self.strerror)


@contextmanager
def atomic_file(path: Path, private: bool = False, durable: bool = False) -> Iterator[Path]:
    """A place beside `path` to write to; it becomes `path` when the block ends, or vanishes when the block fails.

    The folder is made where it is absent. A process that is killed leaves at most a hidden `.<name>.*.partial`, which
    `remove_partials` clears away. A `durable` file is on the disk before it takes the place of the earlier one, so that
    a machine that loses its power keeps one of the two. A `private` file, one with keys, is that too, and its owner's
    alone from the first byte on.

    Raises:
        OSError: the folder cannot be written to or the disk is full; `filename` is `path`, whatever library wrote.
    """
    path = Path(path)
    partial = path.with_name(f".{path.name[:200]}.{os.getpid()}-{secrets.token_hex(4)}{PARTIAL}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        mode = 0o600 if private else 0o666  # less what the umask takes
        os.close(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode))
        yield partial
        if private or durable:
            _sync(partial)
        partial.replace(path)
        if private or durable:
            _sync(path.parent)
    except BaseException as error:
        with suppress(OSError):  # where the folder is no folder, nothing lies there
            partial.unlink(missing_ok=True)
        number = _failed_write(error, partial)
        if number is None:
            raise
        raise OSError(number, os.strerror(number), str(path)) from error


def _sync(path: Path) -> None:
    """Have the system write a file, or the names in a folder, to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_text(path: Path, text: str) -> None:
    """Write `text` as UTF-8, atomically; what is no text, a byte of a file name, is escaped as JSON would."""
    with atomic_file(path) as partial:
        partial.write_text(text, encoding="utf-8", errors="backslashreplace")


def write_bytes(path: Path, content: bytes | memoryview, private: bool = False) -> None:
    """Write `content`, atomically; `private` as in `atomic_file`."""
    with atomic_file(path, private) as partial:
        partial.write_bytes(content)


def remove_partials(folder: Path, name: str = "") -> None:
    """Remove half-written files that a killed process left in `folder`: of the file `name`, or of all."""
    beginning = f".{name}." if name else "."
    for path in folder.iterdir():
        if path.name.startswith(beginning) and path.name.endswith((PARTIAL, ".tmp")):  # .tmp: of earlier versions
            path.unlink(missing_ok=True)


def check_folder(folder: Path, option: str) -> None:
    """Refuse a folder that files cannot be written to, before the work whose results are to go there.

    A small file is written and removed, in the folder or in the nearest one above it that exists: permissions, quotas
    and file systems that are read-only all answer truly to that.

    Raises:
        PlaceError: says what stands in the way, and to name another place with `option`, such as `--out`.
    """
    folder = Path(folder).absolute()
    nearest = folder
    while not os.path.lexists(nearest):
        nearest = nearest.parent
    probe = nearest / f".{os.getpid()}-{secrets.token_hex(4)}{PARTIAL}"
    try:
        if not nearest.is_dir():
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
        try:
            probe.write_bytes(_PROBE)
        finally:
            probe.unlink(missing_ok=True)
    except OSError as error:
        reason = "it is no folder" if error.errno == errno.ENOTDIR else error.strerror
        below = "" if nearest == folder else f" to make {folder.relative_to(nearest)} in"
        raise PlaceError(
            error.errno, f"{nearest} cannot be written to ({reason}), expected a place{below}; name one with {option}"
        ) from None


def check_file(path: Path, option: str) -> None:
    """Refuse a file that could not be written, as `check_folder` does; neither it nor its folder need exist yet."""
    if Path(path).is_dir():
        raise PlaceError(errno.EISDIR, f"found a folder at {path}, expected a file to write; name one with {option}")
    check_folder(Path(path).absolute().parent, option)


def describe_place_error(error: BaseException) -> str | None:
    """One line about a place that could not be written to, and what to do; None for any other error."""
    if isinstance(error, PlaceError):
        return str(error)
    if not isinstance(error, OSError) or error.errno not in PLACE_ERRORS:
        return None
    where = "" if error.filename is None else f"{error.filename}: "
    return f"{where}{os.strerror(error.errno)}; {PLACE_ERRORS[error.errno]}"


def _failed_write(error: BaseException, partial: Path) -> int | None:
    """Number of the system's error where writing `partial` failed, also where a library tells it in words alone."""
    if isinstance(error, OSError):
        return error.errno if error.filename in (None, str(partial)) else None
    found = _RUST.search(str(error)) if isinstance(error, Exception) else None
    return int(found.group(1)) if found else None


def file_hash(*paths: Path) -> str:
    """SHA-256 of files, one after the other, as hexadecimal digits."""
    digest = hashlib.sha256()
    for path in paths:
        with path.open("rb") as file:
            hashlib.file_digest(file, lambda: digest)
    return digest.hexdigest()


def data_set_name(settings: Mapping[str, object]) -> str:
    """The name of the folder, or of the index file, that the settings of a data module name; `data` without either."""
    root, index_file = settings.get("root"), settings.get("index_file")
    if root:
        return PurePath(str(root)).name or str(root)
    return PurePath(str(index_file)).stem if index_file else "data"

"""Writing a file whole or not at all, and where it holds secrets for its owner alone."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

_END = ".tmp"


def replace_file(path: Path, content: bytes, private: bool = False) -> None:
    """Write a file beside its place and rename it; if that fails, nothing is left beside it and it is as it was.

    Args:
        path: the file; its folder must exist.
        content: its bytes.
        private: readable and writable by its owner only, from the first byte on.

    Raises:
        OSError: it cannot be written, as on a full disk; `filename` is `path`.
    """
    temporary = path.with_name(f"{_beginning(path)}{os.getpid()}{_END}")
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL
    try:
        temporary.unlink(missing_ok=True)
        with os.fdopen(os.open(temporary, flags, 0o600 if private else 0o666), "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException as error:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise OSError(error.errno, error.strerror, str(path)) from error
        raise


def remove_leftovers(path: Path) -> None:
    """Remove what processes that were killed while they wrote a file left beside it.

    Call it where no other process can be writing that file.
    """
    for item in path.parent.iterdir():
        if item.name.startswith(_beginning(path)) and item.name.endswith(_END):
            item.unlink(missing_ok=True)


def _beginning(path: Path) -> str:
    return f".{path.name}."

"""Processes that take turns, and work in progress that a dead process has left."""

from __future__ import annotations

import os
import re
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from lightning_modules.common.files import PARTIAL

_PATIENCE = 2.0  # seconds to wait before saying so
_OWNER = re.compile(rf"\.(\d+)-[0-9a-f]{{8}}{re.escape(PARTIAL)}$")
_QUIET = 60.0  # seconds without a change: of a half-written file whose process is not seen from here


@contextmanager
def one_at_a_time(file: Path, work: str) -> Iterator[bool]:
    """Wait until no other process is inside with the same file, which stays; the system frees it of one that is killed.

    Gives whether it is so: where the file system knows no locks, nobody waits.

    Args:
        file: a file of nothing else, made where it is absent.
        work: what the other process is doing, for the note on standard error.
    """
    lock = FileLock(file)
    try:
        try:
            lock.acquire(timeout=_PATIENCE)
        except Timeout:
            sys.stderr.write(f"note: another process is {work}; waiting for it\n")
            lock.acquire()
    except (NotImplementedError, OSError):  # no locks here, or a file that cannot be written
        pass
    try:
        yield lock.is_locked
    finally:
        lock.release()


def remove_abandoned(folder: Path) -> None:
    """Remove half-written files (`files.atomic_file`) of processes that are gone; those of living ones stay.

    A process of another machine that shares the folder is not seen from here: what has changed within the last minute
    stays as well.
    """
    with suppress(OSError):
        for path in folder.iterdir():
            owner = _OWNER.search(path.name)
            if owner is None or _lives(int(owner[1])):
                continue
            with suppress(OSError):
                if time.time() - path.stat().st_mtime > _QUIET:
                    path.unlink()


def _lives(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:  # somebody else's
        return True
    return True

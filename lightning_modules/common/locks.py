"""Processes that take turns, and work in progress that a dead process has left."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

_PATIENCE = 2.0  # seconds to wait before saying so


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

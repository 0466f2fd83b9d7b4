"""The folder that a manifold is built in: gone on with, or cleared away, where the process that built it was killed."""

from __future__ import annotations

import hashlib
import json
import shutil
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout

from lightning_modules.artifacts.embeddings.registry import Embedding, embedding_identity

RAW = "whole.bin"
_BUILDING, _LOCK, _STATE, _IDENTIFIERS = ".building", "building.lock", "building.json", "identifiers.bin"
_FORGOTTEN = 600.0  # seconds without a change: of a folder that has no lock


@dataclass
class Workplace:
    """A folder to build in, and how far a killed process has come there.

    Attributes:
        folder: the folder.
        identity: what is embedded, and how; None where that cannot be told before, so that nothing can be continued.
    """

    folder: Path
    identity: str | None

    def found(self, batch: int) -> tuple[int, tuple[int, ...]]:
        """Images whose points are there, in whole batches, and the shape of a point; 0 and () where there are none."""
        try:
            state = json.loads((self.folder / _STATE).read_text())
            shape, row = tuple(int(size) for size in state["shape"]), int(state["row"])
            if not (self.folder / RAW).exists():  # all are there, in the form that needs no other
                (self.folder / "points.bin").rename(self.folder / RAW)
            points = (self.folder / RAW).stat().st_size // row
            named = (self.folder / _IDENTIFIERS).stat().st_size // 8
        except (OSError, ValueError, KeyError, TypeError):
            return 0, ()
        count = min(points, named) // batch * batch
        return (count, shape) if count else (0, ())

    def describe(self, shape: tuple[int, ...], row: int) -> None:
        """Say of what shape and how many bytes a point is, so that the points can be found again."""
        if self.identity is not None:
            (self.folder / _STATE).write_text(json.dumps({"identity": self.identity, "shape": shape, "row": row}))

    @property
    def identifiers(self) -> Path:
        """File of the content ids of the points that are there, int64."""
        return self.folder / _IDENTIFIERS

    def tidy(self) -> None:
        """Remove all that no manifold has; first what says that it can be gone on with."""
        for name in (_STATE, RAW, _IDENTIFIERS, _LOCK):
            (self.folder / name).unlink(missing_ok=True)


def identity_of(images: Any, embedding: Embedding, device: torch.device) -> str | None:
    """A hash of embedding, device and the images' ``content_ids`` in their order; None where the images have none."""
    identifiers = getattr(images, "content_ids", None)
    if not isinstance(identifiers, torch.Tensor) or not hasattr(images, "__getitem__"):
        return None
    facts = json.dumps([embedding_identity(embedding), device.type, torch.__version__], sort_keys=True)
    digest = hashlib.blake2b(facts.encode(), digest_size=16)
    digest.update(identifiers.to(torch.int64).numpy().data)
    return digest.hexdigest()


@contextmanager
def workplace(directory: Path, identity: str | None) -> Iterator[Workplace]:
    """A folder beside `directory` to build in: one of the same identity that a killed process has left, or a new one.

    Others that are left are removed, unless a living process builds there. The folder goes when the block ends or
    fails; it stays where somebody has stopped the process, to be continued.
    """
    directory.parent.mkdir(parents=True, exist_ok=True)
    folder, lock = _left_behind(directory, identity) or _new(directory)
    try:
        yield Workplace(folder, identity)
    except Exception:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    except BaseException:  # Ctrl-C or a signal: the same command goes on from here
        if identity is None:
            shutil.rmtree(folder, ignore_errors=True)
        raise
    else:
        shutil.rmtree(folder, ignore_errors=True)
    finally:
        with suppress(OSError):
            lock.release()


def _new(directory: Path) -> tuple[Path, FileLock]:
    name = f".{directory.name}.{uuid.uuid4().hex[:12]}"
    folder = directory.with_name(name)
    folder.mkdir()
    lock = FileLock(folder / _LOCK)
    with suppress(OSError, NotImplementedError):  # without locks, nobody takes it for forgotten while it grows
        lock.acquire(timeout=0)
    return folder.rename(directory.with_name(name + _BUILDING)), lock  # only now do others see it


def _left_behind(directory: Path, identity: str | None) -> tuple[Path, FileLock] | None:
    """The folder to go on with, locked; all others that nobody builds in are removed."""
    mine = None
    for folder in sorted(directory.parent.glob("*")):
        if not (folder.name.startswith(f".{directory.name}.") and folder.name.endswith(_BUILDING)):
            continue
        if not (folder / _LOCK).exists():
            if time.time() - _last_change(folder) > _FORGOTTEN:
                shutil.rmtree(folder, ignore_errors=True)
            continue
        lock = FileLock(folder / _LOCK)
        try:
            lock.acquire(timeout=0)
        except (Timeout, OSError, NotImplementedError):  # somebody builds there, or nobody can know
            continue
        if mine is None and identity is not None and _identity_in(folder) == identity:
            mine = folder, lock
            continue
        shutil.rmtree(folder, ignore_errors=True)
        with suppress(OSError):
            lock.release()
    return mine


def _last_change(folder: Path) -> float:
    with suppress(OSError):
        return max(path.stat().st_mtime for path in [folder, *folder.iterdir()])
    return time.time()


def _identity_in(folder: Path) -> str | None:
    try:
        found = json.loads((folder / _STATE).read_text())["identity"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return str(found)

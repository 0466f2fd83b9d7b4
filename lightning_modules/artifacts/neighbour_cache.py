"""Nearest neighbours that have been found before, by content id."""

from __future__ import annotations

import time
import uuid
import warnings
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file
from torch import Tensor

from lightning_modules.artifacts.manifold import Manifold
from lightning_modules.common.files import atomic_file, describe_place_error
from lightning_modules.common.locks import remove_abandoned

_SECONDS = 30.0  # between two savings: what is lost with a process that is killed


class NeighbourCache:
    """The k nearest reals of un-attacked images: content id to distances and indices.

    The same image has the same nearest real as long as embedding and manifold are the same, so what one epoch, run or
    process has found serves all others. Each process writes what it has found into a file of its own, every half minute
    and at each flush, and every start reads all files of the manifold's hash, so that any number of processes may write
    at once, and one that is killed has lost little. They lie in a folder, by default ``neighbours/`` in the manifold's,
    apart for each k; a manifold in memory without a folder is cached in memory only.
    """

    def __init__(self, manifold: Manifold, folder: str | Path | None = None, k: int = 1) -> None:
        self._hash, self._count, self.k = manifold.hash, len(manifold), k
        base = Path(folder) if folder is not None else None
        if base is None and manifold.directory is not None:
            base = manifold.directory / "neighbours"
        self.folder = None if base is None else base / (self._hash if k == 1 else f"{self._hash}-k{k}")
        self._known: dict[int, tuple[list[float], list[int]]] = {}
        self._found: dict[int, tuple[list[float], list[int]]] = {}  # by this process, all in one file
        self._fresh = False
        self._file: str | None = None
        self._flushed = time.monotonic()
        self._read: set[str] = set()
        if self.folder is not None:
            remove_abandoned(self.folder)
        self.refresh()

    def __len__(self) -> int:
        return len(self._known)

    def lookup(self, content_ids: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Neighbours of images: distances ``(N, k)`` float64, indices ``(N, k)`` int64, which are missing ``(N,)``.

        On the CPU; where missing, the distance is NaN and the index -1.
        """
        missing = ([np.nan] * self.k, [-1] * self.k)
        found = [self._known.get(identifier, missing) for identifier in content_ids.tolist()]
        distance = torch.tensor([entry[0] for entry in found], dtype=torch.float64).view(-1, self.k)
        index = torch.tensor([entry[1] for entry in found], dtype=torch.int64).view(-1, self.k)
        return distance, index, index[:, 0] < 0

    def add(self, content_ids: Tensor, distance: Tensor, index: Tensor) -> None:
        """Keep the neighbours of images: content ids ``(N,)``, float64 distances and indices ``(N, k)``.

        Raises:
            ValueError: Shapes that differ, or an index outside the manifold.
        """
        if not (len(content_ids), self.k) == distance.shape == index.shape:
            found = f"{len(content_ids)} ids, distances {tuple(distance.shape)}, indices {tuple(index.shape)}"
            raise ValueError(f"Found {found}; expected {self.k} of each for each id.")
        if len(index) and not (int(index.min()) >= 0 and int(index.max()) < self._count):
            raise ValueError(f"Index {int(index.min())} to {int(index.max())}, the manifold has {self._count} points.")
        for identifier, *entry in zip(content_ids.tolist(), distance.tolist(), index.tolist(), strict=True):
            if identifier not in self._known:
                self._known[identifier] = self._found[identifier] = (entry[0], entry[1])
                self._fresh = True
        if time.monotonic() - self._flushed > _SECONDS:
            self.flush()

    def flush(self) -> None:
        """Write what is new since the last flush, if there is a folder."""
        self._flushed = time.monotonic()
        if self.folder is None or not self._fresh:
            return
        name = f"{uuid.uuid4().hex}.safetensors"
        arrays = {
            "content_id": np.array(list(self._found), dtype=np.int64),
            "distance": np.array([entry[0] for entry in self._found.values()], dtype=np.float64),
            "index": np.array([entry[1] for entry in self._found.values()], dtype=np.int64),
        }
        if self.k == 1:  # as they were before there were several
            arrays |= {"distance": arrays["distance"][:, 0], "index": arrays["index"][:, 0]}
        try:
            with atomic_file(self.folder / name) as partial:
                mode = partial.stat().st_mode
                save_file(arrays, partial, metadata={"manifold": self._hash})
                partial.chmod(mode)  # safetensors writes for the owner alone; all readers of the manifold gain by it
        except OSError as error:  # a cache: without it the neighbours are searched again, which ends no training
            warnings.warn(
                f"found neighbours are not kept for the next run: {describe_place_error(error) or error}", stacklevel=2
            )
            return
        self._read.add(name)
        if self._file is not None:
            (self.folder / self._file).unlink(missing_ok=True)  # the new one holds what it held
        self._file, self._fresh = name, False

    def refresh(self) -> None:
        """Take in what other processes have written meanwhile."""
        if self.folder is None or not self.folder.is_dir():
            return
        for path in sorted(self.folder.glob("*.safetensors")):
            if path.name in self._read:
                continue
            self._read.add(path.name)
            try:
                arrays = self._load(path)
            except (SafetensorError, KeyError, ValueError, OSError) as error:
                if not path.exists():  # its writer has a newer one meanwhile
                    continue
                warnings.warn(f"{path} is left out, its neighbours are searched again: {error}", stacklevel=2)
                continue
            for identifier, distance, index in zip(*(array.tolist() for array in arrays), strict=True):
                self._known.setdefault(identifier, (distance, index))

    def _load(self, path: Path) -> tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.int64]]:
        with safe_open(path, framework="numpy") as file:
            if (file.metadata() or {}).get("manifold") != self._hash:
                raise ValueError("it belongs to another manifold")
            identifier, distance, index = (file.get_tensor(name) for name in ("content_id", "distance", "index"))
        shape = (len(identifier), self.k)
        if not distance.size == index.size == len(identifier) * self.k:
            raise ValueError("its columns have different lengths")
        distance, index = distance.reshape(shape), index.reshape(shape)
        if len(index) and (index.min() < 0 or index.max() >= self._count):
            raise ValueError("it names points that the manifold does not have")
        return identifier, distance, index

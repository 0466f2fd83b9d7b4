"""Embedded images that have been computed before, by content id and identity of the embedding."""

from __future__ import annotations

import hashlib
import json
import time
import uuid
import warnings
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from lightning_modules.artifacts.embeddings.registry import Embedding, embedding_identity
from lightning_modules.common.files import atomic_file, describe_place_error
from lightning_modules.common.locks import remove_abandoned

_SECONDS = 30.0  # between two savings: what is lost with a process that is killed


class FeatureCache:
    """Points of images in the space of a costly embedding, on disk.

    A network's features of one image are computed once for all epochs and runs. Each process appends files of its own
    to a folder that the embedding's identity names, so that any number of processes may write at once; every start
    reads the content ids of all files, and the points where they are asked for.

    Args:
        base: Folder of the caches of all embeddings.
        embedding: The space.
    """

    def __init__(self, base: str | Path, embedding: Embedding) -> None:
        identity = json.dumps(embedding_identity(embedding), sort_keys=True)
        self.folder = Path(base) / f"{embedding.name}-{hashlib.sha256(identity.encode()).hexdigest()[:16]}"
        self._embedding, self._identity = embedding, identity
        self._stored: dict[int, tuple[Path, int]] = {}
        self._fresh: dict[int, Tensor] = {}
        self._written = time.monotonic()
        remove_abandoned(self.folder)
        for path in sorted(self.folder.glob("*.safetensors")):
            self._take_in(path)

    def __len__(self) -> int:
        return len(self._stored.keys() | self._fresh.keys())

    def embedded(self, images: Tensor, content_ids: Tensor) -> Tensor:
        """Points ``(N, *shape)`` float32 of images ``(N, 3, H, W)`` with these content ids ``(N,)``."""
        identifiers = content_ids.tolist()
        missing = [
            place for place, each in enumerate(identifiers) if each not in self._stored and each not in self._fresh
        ]
        new = self._embedding(images[torch.tensor(missing, device=images.device)]) if missing else None
        if new is not None:
            self._fresh |= {identifiers[place]: row for place, row in zip(missing, new.float().cpu(), strict=True)}
        found = self._read([each for each in identifiers if each not in self._fresh]) | self._fresh
        points = torch.stack([found[each] for each in identifiers]).to(images.device)
        if time.monotonic() - self._written > _SECONDS:
            self.flush()
        return points

    def flush(self) -> None:
        """Write what is new since the last flush."""
        self._written = time.monotonic()
        if not self._fresh:
            return
        path = self.folder / f"{uuid.uuid4().hex}.safetensors"
        tensors = {"content_id": torch.tensor(list(self._fresh)), "points": torch.stack(list(self._fresh.values()))}
        try:
            with atomic_file(path) as partial:
                mode = partial.stat().st_mode
                save_file(tensors, partial, metadata={"embedding": self._identity})
                partial.chmod(mode)  # safetensors writes for the owner alone
        except OSError as error:  # a cache: without it the images are embedded again, which ends no training
            warnings.warn(
                f"embedded images are not kept for the next run: {describe_place_error(error) or error}", stacklevel=2
            )
            return
        self._stored |= {identifier: (path, row) for row, identifier in enumerate(self._fresh)}
        self._fresh = {}

    def _take_in(self, path: Path) -> None:
        try:
            with safe_open(path, framework="pt") as file:
                if (file.metadata() or {}).get("embedding") != self._identity:
                    raise ValueError("it belongs to another embedding")
                identifiers, points = file.get_tensor("content_id").tolist(), file.get_slice("points").get_shape()
            if len(identifiers) != points[0]:
                raise ValueError("its columns have different lengths")
        except (SafetensorError, KeyError, ValueError, OSError) as error:
            warnings.warn(f"{path} is left out, its images are embedded again: {error}", stacklevel=2)
            return
        self._stored |= {identifier: (path, row) for row, identifier in enumerate(identifiers)}

    def _read(self, identifiers: list[int]) -> dict[int, Tensor]:
        by_file: dict[Path, list[tuple[int, int]]] = {}
        for identifier in identifiers:
            path, row = self._stored[identifier]
            by_file.setdefault(path, []).append((identifier, row))
        found: dict[int, Tensor] = {}
        for path, wanted in by_file.items():
            with safe_open(path, framework="pt") as file:
                points = file.get_slice("points")
                found |= {identifier: points[row] for identifier, row in wanted}
        return found

"""From images to stored points, a batch at a time."""

from __future__ import annotations

import os
from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Subset

from lightning_modules.artifacts.embeddings.registry import Embedding, embedding_identity
from lightning_modules.artifacts.manifold_files import create_tensor, map_tensor, new_content_hash
from lightning_modules.artifacts.manifold_workplace import RAW, Workplace
from lightning_modules.artifacts.search.index import GRID_TOLERANCE, LEVELS
from lightning_modules.artifacts.search.shared_coordinates import SharedCoordinates, find_shared_coordinates
from lightning_modules.common.child_processes import die_with_parent
from lightning_modules.common.progress import Progress

_BATCH = 256
LARGEST = 1e15
"""Squared norms of larger values leave the range in which float32 bounds work."""


class PointStream:
    """Embeds images on a device and yields points as they are stored, on the CPU; arguments as ``Manifold.build``.

    Attributes:
        shape: Shape of a point, known after the first batch.
        dtype: uint8 for 8-bit embeddings, else float32.
        start: First image to embed, of a map-style data set; ``shape`` is known then.
    """

    def __init__(self, images: Any, embedding: Embedding, num_workers: int, device: torch.device | str = "cpu") -> None:
        self._device = torch.device(device)
        self._images, self.embedding, self._workers = images, embedding.to(self._device), num_workers
        self.dtype = torch.uint8 if embedding.eight_bit else torch.float32
        self.shape: tuple[int, ...] = ()
        self.start = 0

    @property
    def total(self) -> int | None:
        """Images that are still to embed; None where nobody knows."""
        identifiers = getattr(self._images, "content_ids", None)  # items of other data sets may be batches
        return None if identifiers is None else len(identifiers) - self.start

    @property
    def _is_map_style(self) -> bool:
        return hasattr(self._images, "__getitem__") and hasattr(self._images, "__len__")

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Points ``(n, D)`` and content ids ``(n,)`` int64.

        Raises:
            ValueError: See ``Manifold.build``.
        """
        seen = self.start
        for images, identifiers in self._batches():
            if images.dtype == torch.uint8:
                images = images.float() / LEVELS
            with torch.inference_mode():
                embedded = self.embedding(images.float().to(self._device))
            if not self.shape:
                self.shape = tuple(embedded.shape[1:])
            if tuple(embedded.shape[1:]) != self.shape:
                raise ValueError(
                    f"Images {seen} to {seen + len(images) - 1} embed to shape {tuple(embedded.shape[1:])}, the ones "
                    f"before to {self.shape}; all images of a manifold must have one size."
                )
            if len(identifiers) != len(embedded):
                raise ValueError(f"A batch has {len(embedded)} images and {len(identifiers)} content ids.")
            yield self._stored(embedded.reshape(len(embedded), -1).cpu(), seen), identifiers
            seen += len(images)

    def _stored(self, points: Tensor, seen: int) -> Tensor:
        wrong = ~points.abs().amax(1).le(LARGEST)
        if bool(wrong.any()):
            which = seen + int(wrong.nonzero()[0])
            raise ValueError(f"Image {which} embeds to values that are NaN, infinite or above {LARGEST:g}.")
        if self.dtype == torch.float32:
            return points.float().contiguous()
        levels = points * LEVELS
        rounded = levels.round()
        wrong = (levels - rounded).abs().amax(1) > GRID_TOLERANCE
        wrong |= (rounded.amin(1) < 0) | (rounded.amax(1) > LEVELS)
        if bool(wrong.any()):
            raise ValueError(
                f"Image {seen + int(wrong.nonzero()[0])} has values that are not multiples of 1/255 in [0, 1], and the "
                f"manifold of '{self.embedding.name}' is stored in 8 bits; pass 8-bit images."
            )
        return rounded.to(torch.uint8)

    def _batches(self) -> Iterator[tuple[Tensor, Tensor]]:
        source = self._images
        if self._is_map_style:
            # Explicit indices: a map-style data set need not raise IndexError at its end.
            # A generator of its own: without one, the loader draws from the global random state.
            generator = torch.Generator().manual_seed(0)
            rest = Subset(source, range(self.start, len(source)))
            init = partial(_end_with, os.getpid())
            source = DataLoader(
                rest, batch_size=None, num_workers=self._workers, generator=generator, worker_init_fn=init
            )
        images: list[Tensor] = []
        identifiers: list[int] = []
        for item in source:
            image = torch.as_tensor(item["image"])
            if images and (image.ndim == 4 or len(images) == _BATCH):
                yield torch.stack(images), torch.tensor(identifiers)
                images, identifiers = [], []
            if image.ndim == 4:
                yield image, torch.as_tensor(item["content_id"], dtype=torch.int64).reshape(-1).cpu()
                continue
            if images and image.shape != images[0].shape:
                raise ValueError(
                    f"An image has shape {tuple(image.shape)}, the ones before {tuple(images[0].shape)}; all images of "
                    "a manifold must have one size."
                )
            images.append(image)
            identifiers.append(int(item["content_id"]))
        if images:
            yield torch.stack(images), torch.tensor(identifiers)


def _end_with(parent: int, _: int) -> None:
    die_with_parent(parent)


def write_points(
    place: Workplace, stream: PointStream, memory_limit: int
) -> tuple[Tensor, SharedCoordinates, Tensor, str]:
    """Write ``points.bin``, with so many bytes to work with; go on after the points that are there.

    Returns:
        Memory-mapped points ``(N, C)``, their columns, content ids ``(N,)`` and the content hash.

    Raises:
        ValueError: There is no image, or see :class:`PointStream`.
    """
    folder, raw = place.folder, place.folder / RAW
    content_ids = _embed(place, stream)
    total, dimensions = len(content_ids), int(np.prod(stream.shape))
    points = map_tensor(raw, (total, dimensions), stream.dtype)
    digest = new_content_hash(embedding_identity(stream.embedding), stream.shape, stream.dtype)
    for part in torch.split(points, max(1, 2**24 // dimensions)):
        digest.update(part.numpy().data)
    digest.update(content_ids.numpy().data)
    columns = SharedCoordinates.identity(dimensions, stream.dtype)
    if stream.dtype == torch.uint8:
        rows = max(1, min(4096, memory_limit // (32 * dimensions)))
        columns = find_shared_coordinates(points, rows)
        if not columns.is_identity:  # the raw points stay until the end, for a build that goes on
            stored = create_tensor(folder, "points", (total, columns.count), torch.uint8)
            for start in range(0, total, rows):
                stored[start : start + rows] = columns.compress(points[start : start + rows])
            return stored, columns, content_ids, digest.hexdigest()
    del points
    raw.rename(folder / "points.bin")
    points = map_tensor(folder / "points.bin", (total, dimensions), stream.dtype)
    return points, columns, content_ids, digest.hexdigest()


def _embed(place: Workplace, stream: PointStream) -> Tensor:
    """Write the raw points, all of one size, and give the content ids ``(N,)``."""
    stream.start, stream.shape = place.found(_BATCH)
    row = int(np.prod(stream.shape)) * stream.dtype.itemsize
    with place.identifiers.open("ab") as names, (place.folder / RAW).open("ab") as file:
        names.truncate(8 * stream.start)
        file.truncate(row * stream.start)
        with Progress("embedding reals", stream.total) as progress:
            for points, identifiers in stream:
                if not file.tell():
                    place.describe(stream.shape, points[0].numel() * points.element_size())
                file.write(points.numpy().data)
                file.flush()
                names.write(identifiers.to(torch.int64).numpy().data)
                names.flush()
                progress.update(len(identifiers))
        count = names.tell() // 8
    if not count:
        raise ValueError("A manifold of no images was asked for; give at least one real image.")
    return torch.from_numpy(np.fromfile(place.identifiers, dtype=np.int64))

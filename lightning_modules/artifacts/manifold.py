"""The estimated data manifold: embedded real images, stored, and their exact nearest neighbours."""

from __future__ import annotations

import json
import os
import shutil
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lightning_modules.artifacts.embeddings.registry import Embedding, embedding_identity
from lightning_modules.artifacts.manifold_build import LARGEST, PointStream, write_points
from lightning_modules.artifacts.manifold_files import (
    MANIFEST,
    ManifoldError,
    create_tensor,
    dtype_name,
    new_content_hash,
    open_tensors,
    read_manifest,
    write_manifest,
)
from lightning_modules.artifacts.manifold_workplace import Workplace, identity_of, workplace
from lightning_modules.artifacts.search.index import (
    DEFAULT_MEMORY_LIMIT,
    LEVELS,
    References,
    assemble,
    describe_references,
)
from lightning_modules.artifacts.search.refinement import SearchReport
from lightning_modules.artifacts.search.search import Neighbours, banned_pairs, search
from lightning_modules.artifacts.search.shared_coordinates import SharedCoordinates
from lightning_modules.common.files import PLACE_ERRORS


class Manifold:
    """Embedded real images and their exact nearest neighbours: the estimated data manifold (ManiFPT, Sec. 3).

    Made by :meth:`build`, :meth:`open` or :meth:`from_tensors`.

    Attributes:
        hash: Content hash of embedding, shape, points and content ids, in their order.
        shape: Shape of a point, e.g. ``(3, 32, 32)``.
        content_ids: ``(N,)`` int64, the content id of the image that each point comes from.
        embedding: Name, version and preprocessing of the embedding.
        directory: Folder it was opened from; None for one in memory.
    """

    def __init__(
        self,
        references: References,
        content_ids: Tensor,
        shape: tuple[int, ...],
        embedding: dict[str, Any],
        content_hash: str,
        directory: Path | None,
    ) -> None:
        self._references, self.content_ids, self.shape = references, content_ids, shape
        self.embedding, self.hash, self.directory = embedding, content_hash, directory

    # --- making one ---------------------------------------------------------------------------------------------------

    @classmethod
    def build(
        cls,
        directory: str | Path,
        images: Any,
        embedding: Embedding,
        *,
        axes: int | None = None,
        memory_limit: int = DEFAULT_MEMORY_LIMIT,
        num_workers: int = 0,
        overwrite: bool = False,
        device: torch.device | str = "cpu",
    ) -> Manifold:
        """Embed images once and store them.

        A build of a map-style data set with ``content_ids`` that was killed or stopped is continued, to the same bits;
        what is left of any other is removed, unless a living process builds there.

        Args:
            directory: Folder to make.
            images: A map-style data set of ``{"image": uint8 (3, H, W), "content_id": int}``, or an iterable of such
                items or of batches of them (``(B, 3, H, W)``, ``(B,)``). Floats in [0, 1] are taken as well.
            embedding: The space.
            axes: Principal axes of the search's bounds; None chooses, 0 leaves them out. Results do not depend on it.
            memory_limit: Bytes to work with.
            num_workers: Processes that decode a map-style data set.
            overwrite: Replace a manifold that is already there.
            device: Where to embed.

        Returns:
            The manifold, opened.

        Raises:
            FileExistsError: Something else is already there.
            ValueError: No images, images of several sizes, values that are not finite, or an ``eight_bit`` embedding
                that left the 8-bit grid.
        """
        directory = Path(directory)
        if directory.exists() and not overwrite:
            raise FileExistsError(f"{directory} already exists; open it with Manifold.open, or pass overwrite=True.")
        device = torch.device(device)
        try:
            with workplace(directory, identity_of(images, embedding, device)) as place:
                cls._build(place, PointStream(images, embedding, num_workers, device), axes, memory_limit)
                cls._put_in_place(place.folder, directory, overwrite)
        except OSError as error:
            if error.filename is None and error.errno in PLACE_ERRORS:  # of a write, which names no file
                raise OSError(error.errno, os.strerror(error.errno), str(directory)) from error
            raise
        return cls.open(directory, embedding)

    @staticmethod
    def _build(place: Workplace, stream: PointStream, axes: int | None, memory_limit: int) -> None:
        work = place.folder
        points, columns, content_ids, content_hash = write_points(place, stream, memory_limit)
        tensors = {"points": points, "column": columns.column, "constant": columns.constant}
        tensors["content_ids"] = content_ids
        for name in ("column", "constant", "content_ids"):
            create_tensor(work, name, tuple(tensors[name].shape), tensors[name].dtype).copy_(tensors[name])
        _, computed = describe_references(points, columns, axes, memory_limit, partial(create_tensor, work))
        facts = {
            "embedding": embedding_identity(stream.embedding),
            "shape": list(stream.shape),
            "dtype": dtype_name(points.dtype),
            "count": len(points),
            "hash": content_hash,
            "axes": computed["axes"].shape[1] if "axes" in computed else 0,
        }
        write_manifest(work, tensors | computed, **facts)
        place.tidy()

    @staticmethod
    def _put_in_place(work: Path, directory: Path, overwrite: bool) -> None:
        if overwrite and directory.exists():
            old = directory.with_name(f"{work.name}.old")
            directory.rename(old)
            work.rename(directory)
            for left in directory.parent.glob("*"):  # this one, and those of processes that were killed here
                if left.name.startswith(f".{directory.name}.") and left.name.endswith(".old"):
                    shutil.rmtree(left, ignore_errors=True)
            return
        try:
            work.rename(directory)
        except OSError:  # another process was faster; its manifold serves if it is the same one
            if read_manifest(directory)["hash"] != read_manifest(work)["hash"]:
                found = f"{directory} was made by another process meanwhile, from other images."
                raise FileExistsError(found) from None

    @staticmethod
    def exists(directory: str | Path) -> bool:
        """True if a whole manifold lies in the folder."""
        return (Path(directory) / MANIFEST).is_file()

    @classmethod
    def open(
        cls,
        directory: str | Path,
        embedding: Embedding | None = None,
        *,
        expected_hash: str | None = None,
        verify: bool = False,
    ) -> Manifold:
        """Open a stored manifold; points stay on disk until they are used.

        Embedding and hash are compared with the manifold's where they are given. With ``verify`` everything is read,
        and digests and the content hash are compared; otherwise only sizes are.

        Raises:
            FileNotFoundError: There is no manifold.
            ManifoldError: It is damaged, of another embedding or another content.
        """
        directory = Path(directory)
        manifest = read_manifest(directory)
        tensors = open_tensors(directory, manifest, verify)
        try:
            columns = SharedCoordinates(tensors["column"].clone(), tensors["constant"].clone())
            references = assemble(tensors["points"], columns, tensors)
            shape = tuple(int(size) for size in manifest["shape"])
            content_ids = tensors["content_ids"].clone()
            manifold = cls(references, content_ids, shape, manifest["embedding"], manifest["hash"], directory)
        except (KeyError, TypeError, ValueError) as error:
            raise ManifoldError(f"The manifold at {directory} is damaged ({error!r}). Build it again.") from error
        manifold._check(embedding, expected_hash, verify, str(directory))
        return manifold

    @classmethod
    def from_tensors(cls, tensors: dict[str, Tensor], embedding: Embedding | None = None) -> Manifold:
        """A manifold in memory, from what :meth:`to_tensors` gave.

        Raises:
            ManifoldError: Tensors are missing or damaged, or of another embedding.
        """
        try:
            facts = json.loads(bytes(tensors["facts"].tolist()).decode())
            columns = SharedCoordinates(tensors["column"], tensors["constant"])
            points, content_ids = tensors["points"].contiguous(), tensors["content_ids"]
            shape = tuple(int(size) for size in facts["shape"])

            def in_memory(_: str, size: tuple[int, ...], dtype: torch.dtype) -> Tensor:
                return torch.empty(size, dtype=dtype)

            references, _ = describe_references(points, columns, facts["axes"], DEFAULT_MEMORY_LIMIT, in_memory)
            manifold = cls(references, content_ids, shape, facts["embedding"], facts["hash"], None)
        except (KeyError, TypeError, ValueError, IndexError) as error:
            raise ManifoldError(f"These tensors are not those of a manifold ({error!r}).") from error
        manifold._check(embedding, None, True, "the checkpoint's manifold")
        return manifold

    def to_tensors(self) -> dict[str, Tensor]:
        """Everything that :meth:`from_tensors` needs, as tensors that ``torch.load(weights_only=True)`` reads."""
        projection = self._references.projection
        facts = {
            "embedding": self.embedding,
            "shape": list(self.shape),
            "hash": self.hash,
            "axes": 0 if projection is None else projection.axes.shape[1],
        }
        return {
            "points": self._references.points.clone(),
            "column": self._references.columns.column.clone(),
            "constant": self._references.columns.constant.clone(),
            "content_ids": self.content_ids.clone(),
            "facts": torch.tensor(list(json.dumps(facts).encode()), dtype=torch.uint8),
        }

    def _check(self, embedding: Embedding | None, expected_hash: str | None, verify: bool, where: str) -> None:
        if embedding is not None and embedding_identity(embedding) != self.embedding:
            raise ManifoldError(
                f"The manifold at {where} was embedded with {self.embedding}, this is {embedding_identity(embedding)}. "
                "Build a manifold with this embedding."
            )
        if expected_hash is not None and expected_hash != self.hash:
            raise ManifoldError(
                f"The manifold at {where} has the hash {self.hash}, expected {expected_hash}: it was built from other "
                "images. Restore the original one, or train again on this one."
            )
        if len(self.content_ids) != len(self):
            raise ManifoldError(f"The manifold at {where} has {len(self)} points and {len(self.content_ids)} ids.")
        if verify and self._content_hash() != self.hash:
            raise ManifoldError(f"The points of {where} do not have the hash that it claims. Build it again.")

    def _content_hash(self) -> str:
        points, columns = self._references.points, self._references.columns
        digest = new_content_hash(self.embedding, self.shape, points.dtype)
        for part in torch.split(points, max(1, 2**24 // columns.dimensions)):
            digest.update(columns.restore(part).contiguous().numpy().data)
        digest.update(self.content_ids.numpy().data)
        return str(digest.hexdigest())

    # --- using it -----------------------------------------------------------------------------------------------------

    def __len__(self) -> int:
        return len(self._references)

    @property
    def num_bytes(self) -> int:
        """Bytes of the points, which is about what the manifold adds to a checkpoint."""
        return self._references.points.nbytes

    def contains(self, content_ids: Tensor) -> Tensor:
        """Which of these images stand in the manifold: ``(N,)`` int64 to ``(N,)`` bool."""
        return torch.isin(content_ids, self.content_ids.to(content_ids.device))

    def points(self, index: Tensor) -> Tensor:
        """Points ``(n, *shape)`` float32 by index ``(n,)``, on its device.

        Raises:
            IndexError: An index is out of range.
        """
        index = index.to(torch.int64)
        if len(index) and not (int(index.min()) >= 0 and int(index.max()) < len(self)):
            raise IndexError(f"Point {int(index.min())} to {int(index.max())} asked for, the manifold has {len(self)}.")
        references = self._references
        stored = references.points.index_select(0, index.to(references.points.device)).to(index.device)
        points = references.columns.restore(stored).to(torch.float32)
        return (points / LEVELS if references.eight_bit else points).view(len(index), *self.shape)

    def nearest(
        self,
        queries: Tensor,
        k: int = 1,
        exclude: Tensor | None = None,
        *,
        exclude_index: Tensor | None = None,
        memory_limit: int = DEFAULT_MEMORY_LIMIT,
        report: SearchReport | None = None,
    ) -> Neighbours:
        """The k nearest points of each query, exactly.

        The neighbours are those of a float64 evaluation of all distances, ties to the lowest index. Between 8-bit
        points (values within float32 rounding of multiples of 1/255) the squared distance is an integer over 255^2 and
        equal distances are equal numbers; otherwise it is the float64 sum of squared differences in one fixed order.

        Args:
            queries: ``(N, *shape)`` floating point, embedded images. The search runs on their device.
            k: Neighbours wanted, at least 1.
            exclude: ``(N,)`` or ``(N, m)`` int64 content ids that may not be returned for that query (leave-one-out);
                negative ones mean nothing.
            exclude_index: The same by index of the point.
            memory_limit: Bytes that the search may allocate.
            report: Filled with what the search did.

        Returns:
            Distances ``(N, k)`` float64, ascending, and indices ``(N, k)`` int64.

        Raises:
            ValueError: Wrong shape, values that are not finite, too few points for ``k``, or too low a memory limit.
        """
        if tuple(queries.shape[1:]) != self.shape or queries.ndim != len(self.shape) + 1:
            raise ValueError(
                f"Queries have shape {tuple(queries.shape)}, expected (N, {', '.join(map(str, self.shape))}): embed "
                "and size them as the manifold's images were."
            )
        flat = queries.detach().flatten(1).to(torch.float32)
        if k < 1:
            raise ValueError(f"k must be at least 1, found {k}.")
        low, high = torch.aminmax(flat, dim=1) if len(flat) else (flat[:, 0], flat[:, 0])
        if bad := (~((low >= -LARGEST) & (high <= LARGEST))).nonzero()[:, 0].tolist():
            raise ValueError(f"Queries {bad[:10]} hold values that are NaN, infinite or above {LARGEST:g}.")
        banned = banned_pairs(self.content_ids, len(flat), exclude, exclude_index, flat.device)
        usable = len(self) - torch.bincount(banned[0], minlength=max(1, len(flat)))
        if int(usable.min()) < k:
            raise ValueError(
                f"{k} neighbours were asked for, but query {int(usable.argmin())} has {int(usable.min())} of "
                f"{len(self)} points left to choose from; lower k or exclude less."
            )
        return search(self._references, flat, k, banned, memory_limit, report)

"""An embedding together with the real images in it: what representations of one space ask for."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lightning_modules.artifacts import Manifold, NeighbourCache, embedding_identity, manifold_key
from lightning_modules.artifacts.embeddings.registry import Embedding
from lightning_modules.artifacts.feature_cache import FeatureCache
from lightning_modules.common.files import check_folder
from lightning_modules.representations.settings import ManifoldSettings

MIB = 2**20


def space_key(embedding: Embedding) -> str:
    """What tells two spaces apart: the identity of their embeddings."""
    return json.dumps(embedding_identity(embedding), sort_keys=True)


class Space:
    """One embedding, the manifold of reals in it, and what was found before.

    Attributes:
        embedding: The map into the space.
        needs_points: Whether a representation uses real points of this space.
        neighbours_wanted: The most nearest reals that are searched here; 0 where none are.
        manifold: The reals; None until they are prepared, and where they are not needed.
    """

    def __init__(self, embedding: Embedding, settings: ManifoldSettings) -> None:
        self.embedding, self.settings = embedding, settings
        self.needs_points, self.neighbours_wanted = False, 0
        self.manifold: Manifold | None = None
        self.neighbours: NeighbourCache | None = None
        self._features: FeatureCache | None = None

    @property
    def name(self) -> str:
        """How messages and names call the space."""
        return self.embedding.label or self.embedding.name

    @property
    def needs_manifold(self) -> bool:
        """Whether real points are used, or searched."""
        return self.needs_points or self.neighbours_wanted > 0

    def prepare(self, data: Any, device: torch.device, first: bool, barrier: Callable[[], object]) -> None:
        """Embed on this device from now on; open the manifold of a data set, if one is needed and none is there."""
        self.embedding = self.embedding.to(device)
        if self.embedding.costly and self._features is None and hasattr(data, "cache_dir"):
            self._features = FeatureCache(Path(data.cache_dir) / "features", self.embedding)
        if not self.needs_manifold or self.manifold is not None:
            return
        reals = data.manifold_images()
        folder = Path(self.settings.dir or data.cache_dir / "manifolds") / manifold_key(reals, self.embedding)
        if first and not Manifold.exists(folder):
            check_folder(folder, "manifold.dir (--model.init_args.manifold.dir FOLDER)")
            axes = None if self.neighbours_wanted else 0
            Manifold.build(folder, reals, self.embedding, device=device, axes=axes)
        barrier()
        self.use(Manifold.open(folder, self.embedding))

    def use(self, manifold: Manifold) -> None:
        """Search in this manifold from now on."""
        self.manifold = manifold
        self.neighbours = NeighbourCache(manifold, k=self.neighbours_wanted) if self.neighbours_wanted else None

    def embed(self, batch: Mapping[str, Any]) -> Tensor:
        """Points ``(N, *shape)`` float32 of a batch, in full precision, as the manifold's images."""
        images = batch["image"]
        with torch.no_grad(), torch.autocast(images.device.type, enabled=False):
            if self._features is None or "attacked" in batch:
                return self.embedding(images)
            return self._features.embedded(images, batch["content_id"].cpu())

    def points(self, index: Tensor, like: Tensor) -> Tensor:
        """Real points ``(*index, *shape)`` by index of any shape, in the type and on the device of ``like``."""
        points = self._opened.points(index.flatten())
        return points.view(*index.shape, *points.shape[1:]).to(like)

    @property
    def content_ids(self) -> Tensor:
        """Content ids of the reals, in their order."""
        return self._opened.content_ids

    @property
    def _opened(self) -> Manifold:
        if self.manifold is None:
            raise RuntimeError("the manifold is not open yet; call prepare() first")
        return self.manifold

    def nearest(self, batch: Mapping[str, Any], embedded: Tensor) -> tuple[Tensor, Tensor]:
        """Distances ``(N, k)`` float64 and indices ``(N, k)`` of the nearest reals, from the cache where known.

        Raises:
            ValueError: An image with a label stands in the manifold itself.
        """
        manifold, identifiers, k = self._opened, batch["content_id"].cpu(), self.neighbours_wanted
        assert self.neighbours is not None
        if "label" in batch:
            inside = manifold.contains(identifiers).tolist()
            if paths := [path for path, hit in zip(batch["path"], inside, strict=True) if hit]:
                raise ValueError(
                    f"{len(paths)} images of a batch stand in the manifold of reals, so that their artifact would be "
                    f"zero: {', '.join(paths[:5])}; take them out of the data set, or train on another manifold"
                )
        distance, index, missing = self.neighbours.lookup(identifiers)
        if missing.any():
            rows = missing.nonzero()[:, 0]
            # An image without a label may be one of the manifold's own: then its nearest *other* reals count.
            limit, queries = self.settings.search_memory_mib * MIB, embedded[rows.to(embedded.device)]
            found = manifold.nearest(queries, k, exclude=identifiers[rows], memory_limit=limit)
            distance[rows], index[rows] = found.distance.cpu(), found.index.cpu()
            if "attacked" in batch:  # those are met once
                rows = rows[~batch["attacked"].cpu()[rows]]
            self.neighbours.add(identifiers[rows], distance[rows], index[rows])
        return distance, index

    def flush(self) -> None:
        """Keep what was found for the next run on the same data."""
        for cache in (self.neighbours, self._features):
            if cache is not None:
                cache.flush()

    def to_checkpoint(self) -> dict[str, Any]:
        """The manifold's tensors, or its hash and path where it is large."""
        manifold = self._opened
        carried = manifold.num_bytes <= self.settings.carry_mib * MIB
        return {
            "hash": manifold.hash,
            "path": str(manifold.directory or ""),
            "tensors": manifold.to_tensors() if carried else {},
        }

    def load_checkpoint(self, saved: Mapping[str, Any]) -> None:
        """The inverse of :meth:`to_checkpoint`.

        Raises:
            FileNotFoundError: The manifold that the checkpoint names is gone.
        """
        if saved["tensors"]:
            self.use(Manifold.from_tensors(saved["tensors"], self.embedding))
        else:
            self.use(Manifold.open(saved["path"], self.embedding, expected_hash=saved["hash"]))

"""From a batch of images to what classifiers see: embedding, real neighbours, representations."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lightning_modules.artifacts import Manifold, NeighbourCache, build_embedding, embedding_identity, manifold_key
from lightning_modules.common.files import check_folder
from lightning_modules.common.random_streams import random_indices
from lightning_modules.common.tables import Choice
from lightning_modules.common.weights import content_hash
from lightning_modules.representations.registry import Inputs, Representation, build_representation
from lightning_modules.representations.settings import ManifoldSettings

MIB = 2**20


@dataclass(frozen=True)
class Represented:
    """A batch as classifiers see it.

    Attributes:
        tensors: By representation, ``(N, C, H, W)`` or ``(N, d)`` each.
        distance: ``(N,)`` float64 to the nearest real in the embedding's units; None where none was searched.
        nearest: ``(N,)`` int64, index of the nearest real in the manifold; None likewise.
    """

    tensors: dict[str, Tensor]
    distance: Tensor | None = None
    nearest: Tensor | None = None


class Representations:
    """The representations that the networks of one attributor see, and the manifold if they need it.

    Attributes:
        main: Name of the attributor's representation.
        controls: Names of the controls'.
        searches: Whether any of them needs the nearest reals.
        manifold: The reals; None until it is set, and where no representation needs them.
        neighbours: What was found before; None likewise.
    """

    def __init__(
        self, embedding: Choice, main: Choice, controls: Sequence[Choice], seed: int, settings: ManifoldSettings
    ) -> None:
        self.embedding, self.seed, self.settings = build_embedding(embedding), seed, settings
        built = [build_representation(choice) for choice in (main, *controls)]
        self.main, self.controls = built[0].name, [member.name for member in built[1:]]
        if len(set(self.controls)) < len(self.controls):
            raise ValueError(f"found controls {self.controls}, expected each representation once")
        if self.main in self.controls and main != (same := controls[self.controls.index(self.main)]):
            raise ValueError(f"found representation {main} and control {same}; give both the same arguments")
        self.members = {member.name: member for member in built}
        self.searches = any(member.needs_neighbours for member in built)
        self.needs_manifold = self.searches or any(member.needs_random_real for member in built)
        if self.searches:  # a report shows it, whatever the networks see
            self.members.setdefault("artifact", build_representation("artifact"))
        self.device = torch.device("cpu")
        self.manifold: Manifold | None = None
        self.neighbours: NeighbourCache | None = None

    def prepare(self, data: Any, device: torch.device, first: bool, barrier: Callable[[], object]) -> None:
        """Embed on this device from now on; open the manifold of a data set, if one is needed and none is there.

        The data module has ``manifold_images()`` and ``cache_dir``. The ``first`` process builds what is missing, the
        others wait at the barrier.
        """
        self.device, self.embedding = device, self.embedding.to(device)
        if not self.needs_manifold or self.manifold is not None:
            return
        reals = data.manifold_images()
        folder = Path(self.settings.dir or data.cache_dir / "manifolds") / manifold_key(reals, self.embedding)
        if first and not Manifold.exists(folder):
            check_folder(folder, "manifold.dir (--model.init_args.manifold.dir FOLDER)")
            Manifold.build(folder, reals, self.embedding, device=device)
        barrier()
        self._use(Manifold.open(folder, self.embedding))

    def _use(self, manifold: Manifold) -> None:
        self.manifold, self.neighbours = manifold, NeighbourCache(manifold)

    def output_shapes(self, image_size: tuple[int, int]) -> dict[str, tuple[int, ...]]:
        """Shape of each representation of one image ``(H, W)``."""
        with torch.inference_mode():
            embedded = tuple(self.embedding(torch.zeros(1, 3, *image_size, device=self.device)).shape[1:])
        return {name: member.output_shape((3, *image_size), embedded) for name, member in self.members.items()}

    def __call__(self, batch: dict[str, Any], names: Iterable[str], distances: bool = False) -> Represented:
        """Represent a batch: ``image`` (N, 3, H, W) and ``content_id`` (N,); with a ``label``, also ``path``.

        Neighbours of images that are ``attacked`` (N,), whose ids are those of the attacked pixels, are not kept.

        With ``distances`` the nearest reals are searched in any case, if this attributor has a manifold to search.

        Raises:
            ValueError: An image with a label stands in the manifold itself; a representation of another shape than it
                promised, by which its network was chosen.
        """
        wanted = [self.members[name] for name in names]
        inputs, distance, index = self._inputs(batch, wanted, distances and self.searches)
        made = {member.name: member(inputs) for member in wanted}
        for member in wanted:
            found = tuple(made[member.name].shape[1:])
            promised = member.output_shape(tuple(inputs.images.shape[1:]), tuple(inputs.embedded.shape[1:]))
            if found != promised:
                raise ValueError(f"representation {member.name!r} gave shape {found}, its output_shape says {promised}")
        return Represented(made, distance, index)

    def _inputs(
        self, batch: dict[str, Any], wanted: Sequence[Representation], search: bool = False
    ) -> tuple[Inputs, Tensor | None, Tensor | None]:
        with torch.no_grad(), torch.autocast(batch["image"].device.type, enabled=False):  # as the manifold's images
            embedded = self.embedding(batch["image"])
        distance = index = nearest = random = None
        if search or any(member.needs_neighbours for member in wanted):
            distance, index = self._nearest(batch, embedded)
            nearest = self._manifold.points(index).to(embedded)
        if any(member.needs_random_real for member in wanted):
            chosen = random_indices(batch["content_id"].cpu(), len(self._manifold), self.seed)
            random = self._manifold.points(chosen).to(embedded)
        return Inputs(batch["image"], embedded, nearest, random), distance, index

    @property
    def _manifold(self) -> Manifold:
        if self.manifold is None:
            raise RuntimeError("the manifold is not open yet; call prepare() first")
        return self.manifold

    def _nearest(self, batch: dict[str, Any], embedded: Tensor) -> tuple[Tensor, Tensor]:
        """Distance (N,) float64 and index (N,) of the nearest reals, from the cache where they are known."""
        manifold, identifiers = self._manifold, batch["content_id"].cpu()
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
            # An image without a label may be one of the manifold's own: then its nearest *other* real counts.
            limit, queries = self.settings.search_memory_mib * MIB, embedded[rows.to(embedded.device)]
            found = manifold.nearest(queries, exclude=identifiers[rows], memory_limit=limit)
            distance[rows], index[rows] = found.distance[:, 0].cpu(), found.index[:, 0].cpu()
            if "attacked" in batch:  # those are met once
                rows = rows[~batch["attacked"].cpu()[rows]]
            self.neighbours.add(identifiers[rows], distance[rows], index[rows])
        return distance, index

    def nearest_image(self, index: int, image_shape: tuple[int, ...], reals: Any = None) -> Tensor | None:
        """The real image ``(3, H, W)`` in [0, 1] of a point of the manifold; None where it is nowhere.

        Where an 8-bit embedding gives points of the shape of an image, they are the images. Otherwise the point's
        content id is looked up in ``reals``, a map-style data set with ``content_ids``.
        """
        manifold = self._manifold
        if self.embedding.eight_bit and manifold.shape == image_shape:
            return manifold.points(torch.tensor([index]))[0]
        if reals is None:
            return None
        places = (reals.content_ids == manifold.content_ids[index]).nonzero()
        if not len(places):
            return None
        image: Tensor = reals[int(places[0])]["image"]
        return image.float() / 255 if image.dtype == torch.uint8 else image

    # --- fitting ------------------------------------------------------------------------------------------------------

    def fit(self, training_batches: Callable[[int], Iterable[dict[str, Any]]]) -> None:
        """Fit what has to be fitted, on batches of that many training images."""
        for member in self.members.values():
            if member.fit_images:
                member.fit(self._inputs(batch, [member])[0] for batch in training_batches(member.fit_images))

    def identity(self) -> dict[str, Any]:
        """What representations of images depend on, as plain values."""
        fitted = {f"{name}.{key}": value for name, each in self.members.items() for key, value in each.state().items()}
        reals = None if self.manifold is None else self.manifold.hash
        return {**self._identity(), "fitted": content_hash(fitted), "manifold": reals, "random reals": self.seed}

    def _identity(self) -> dict[str, Any]:
        versions = {name: member.version for name, member in self.members.items()}
        return {"embedding": embedding_identity(self.embedding), "representations": versions}

    def to_checkpoint(self) -> dict[str, Any]:
        """What was fitted, and the manifold: its tensors, or its hash and path where it is large."""
        saved: dict[str, Any] = {"representations": {name: member.state() for name, member in self.members.items()}}
        saved["identity"] = self._identity()
        if self.manifold is not None:
            carried = self.manifold.num_bytes <= self.settings.carry_mib * MIB
            saved["manifold_hash"] = self.manifold.hash
            saved["manifold_path"] = str(self.manifold.directory or "")
            saved["manifold"] = self.manifold.to_tensors() if carried else {}
        return saved

    def load_checkpoint(self, saved: Mapping[str, Any]) -> None:
        """The inverse of :meth:`to_checkpoint`; earlier versions wrote the manifold alone.

        Raises:
            ValueError: The networks were trained on another version of the embedding or of a representation.
            FileNotFoundError: The manifold that the checkpoint names is gone.
        """
        if (trained_on := saved.get("identity", self._identity())) != self._identity():
            raise ValueError(f"the networks were trained on {trained_on}, found {self._identity()}; train them again")
        for name, state in saved.get("representations", {}).items():
            if name in self.members:
                self.members[name].load_state(state)
        if not self.needs_manifold:
            return
        if saved["manifold"]:
            self._use(Manifold.from_tensors(saved["manifold"], self.embedding))
        else:
            path, expected = saved["manifold_path"], saved["manifold_hash"]
            self._use(Manifold.open(path, self.embedding, expected_hash=expected))

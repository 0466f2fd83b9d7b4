"""From a batch of images to what classifiers see: embedding, real neighbours, representations."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from lightning_modules.artifacts import Embedding, build_embedding, embedding_identity
from lightning_modules.common.random_streams import random_indices
from lightning_modules.common.tables import Choice
from lightning_modules.common.weights import content_hash
from lightning_modules.representations.artifact import Artifact, check_neighbours
from lightning_modules.representations.registry import Inputs, Representation, build_representation
from lightning_modules.representations.settings import ManifoldSettings
from lightning_modules.representations.spaces import Space, space_key


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


class _View:
    """One batch in every space that is asked for, embedded and searched once in each."""

    def __init__(self, batch: Mapping[str, Any]) -> None:
        self.batch = batch
        self._embedded: dict[int, Tensor] = {}
        self._nearest: dict[int, tuple[Tensor, Tensor]] = {}

    def embedded(self, space: Space) -> Tensor:
        """Points (N, *shape) of the images."""
        if id(space) not in self._embedded:
            self._embedded[id(space)] = space.embed(self.batch)
        return self._embedded[id(space)]

    def nearest(self, space: Space) -> tuple[Tensor, Tensor]:
        """Distances and indices (N, k) of the reals that are nearest in a space."""
        if id(space) not in self._nearest:
            self._nearest[id(space)] = space.nearest(self.batch, self.embedded(space))
        return self._nearest[id(space)]


@dataclass(frozen=True)
class _Seen:
    """Where a representation looks: its space, the space of its search, and how many nearest reals it sees."""

    space: Space
    search: Space
    neighbours: int


class Representations:
    """The representations that the networks of one attributor see, their spaces, and the manifolds they need.

    Args:
        embedding: Space of representations that name none.
        main: What the attributor sees: one representation, or several that it fuses.
        controls: What its controls see.
        seed: Of the random reals.
        settings: Of the manifolds.
        search_space: Space in which nearest reals are searched, where a representation names none; None for its own.
        neighbours: How many nearest reals are seen, likewise.

    Attributes:
        main: Names of the attributor's representations.
        controls: Names of the controls'.
        searches: Whether any of them needs the nearest reals.
        shown: Name of the artifact that a report shows; None where nothing is searched.
    """

    def __init__(
        self,
        embedding: Choice,
        main: Sequence[Choice],
        controls: Sequence[Choice],
        seed: int,
        settings: ManifoldSettings,
        search_space: Choice | None = None,
        neighbours: int = 1,
    ) -> None:
        self.seed, self.settings = seed, settings
        self._spaces: dict[str, Space] = {}
        self._default = self._space_of(embedding)
        self._default_search = None if search_space is None else self._space_of(search_space)
        self._default_neighbours = check_neighbours(neighbours) or 1
        self.members: dict[str, Representation] = {}
        self._seen: dict[str, _Seen] = {}
        self._choices: dict[str, Choice] = {}
        self.main = tuple(self._add(choice) for choice in main)
        self.controls = [self._add(choice) for choice in controls]
        for what, names in (("representations", self.main), ("controls", self.controls)):
            if (not names and what == "representations") or len(set(names)) < len(names):
                raise ValueError(f"found {what} {list(names)}, expected each representation once")
        self.searches = any(member.needs_neighbours for member in self.members.values())
        self.shown = self._shown_artifact() if self.searches else None
        for name, member in self.members.items():
            space, search = self._seen[name].space, self._seen[name].search
            space.needs_points |= member.needs_neighbours or member.needs_random_real
            if member.needs_neighbours:
                search.neighbours_wanted = max(search.neighbours_wanted, self._seen[name].neighbours)
        self.device = torch.device("cpu")

    def _space_of(self, choice: Choice) -> Space:
        space = Space(build_embedding(choice), self.settings)
        return self._spaces.setdefault(space_key(space.embedding), space)

    def _add(self, choice: Choice) -> str:
        member = build_representation(choice)
        space = self._default if member.embedding is None else self._space_of(member.embedding)
        search = space if self._default_search is None else self._default_search
        if member.search_space is not None:
            search = self._space_of(member.search_space)
        count = self._default_neighbours if member.neighbours is None else member.neighbours
        name = member.name
        if space is not self._default:
            name += f"_{space.name}"
        if member.needs_neighbours and search not in (space, self._default_search):
            name += f"_near_{search.name}"
        if count != self._default_neighbours:
            name += f"_{count}_nearest"
        if name in self.members and choice != (same := self._choices[name]):
            raise ValueError(f"found representations {same} and {choice}; give both the same arguments")
        self.members.setdefault(name, member)
        self._seen[name], self._choices[name] = _Seen(space, search, count), choice
        return name

    def _shown_artifact(self) -> str:
        found = [name for name, member in self.members.items() if isinstance(member, Artifact)]
        return found[0] if found else self._add("artifact")

    @property
    def embedding(self) -> Embedding:
        """The space of representations that name none."""
        return self._default.embedding

    @property
    def needs_manifold(self) -> bool:
        """Whether any real point is used."""
        return any(space.needs_manifold for space in self._spaces.values())

    @property
    def titles(self) -> dict[str, str]:
        """How figures and tables call each representation."""
        titles = {}
        for name, member in self.members.items():
            seen = self._seen[name]
            parts = [] if seen.space is self._default else [f"in {seen.space.name}"]
            if member.needs_neighbours and seen.search not in (seen.space, self._default_search):
                parts.append(f"nearest in {seen.search.name}")
            if seen.neighbours != self._default_neighbours:
                parts.append(f"{seen.neighbours} nearest")
            titles[name] = member.title + (f" ({', '.join(parts)})" if parts else "")
        return titles

    def prepare(self, data: Any, device: torch.device, first: bool, barrier: Callable[[], object]) -> None:
        """Embed on this device from now on; open the manifolds of a data set that are needed and not there.

        The data module has ``manifold_images()`` and ``cache_dir``. The ``first`` process builds what is missing, the
        others wait at the barrier.
        """
        self.device = device
        for space in self._spaces.values():
            space.prepare(data, device, first, barrier)
        self._check_order()

    def _check_order(self) -> None:
        """A neighbour found in one space is the same image in all: their manifolds hold the same images in order."""
        manifolds = [space.manifold for space in self._spaces.values() if space.manifold is not None]
        for manifold in manifolds[1:]:
            if not torch.equal(manifold.content_ids, manifolds[0].content_ids):
                raise ValueError(
                    "the manifolds of two spaces hold different images; remove those of this data set from "
                    "manifold.dir or the data set's cache folder, and train again"
                )

    def output_shapes(self, image_size: tuple[int, int]) -> dict[str, tuple[int, ...]]:
        """Shape of each representation of one image ``(H, W)``."""
        image = torch.zeros(1, 3, *image_size, device=self.device)
        with torch.inference_mode():
            shown = {key: space.embedding.show(space.embedding(image)).shape[1:] for key, space in self._spaces.items()}
        return {
            name: member.output_shape((3, *image_size), tuple(shown[space_key(self._seen[name].space.embedding)]))
            for name, member in self.members.items()
        }

    def __call__(self, batch: dict[str, Any], names: Iterable[str], distances: bool = False) -> Represented:
        """Represent a batch: ``image`` (N, 3, H, W) and ``content_id`` (N,); with a ``label``, also ``path``.

        Neighbours of images that are ``attacked`` (N,), whose ids are those of the attacked pixels, are not kept.

        With ``distances`` the nearest reals are searched in any case, if this attributor has a manifold to search.

        Raises:
            ValueError: An image with a label stands in the manifold itself; a representation of another shape than it
                promised, by which its network was chosen.
        """
        wanted = list(dict.fromkeys(names))
        view = _View(batch)
        made = {name: self.members[name](self._inputs(view, name)) for name in wanted}
        for name, found in made.items():
            shown = self._seen[name].space.embedding.show(view.embedded(self._seen[name].space)[:1]).shape[1:]
            promised = self.members[name].output_shape(tuple(batch["image"].shape[1:]), tuple(shown))
            if tuple(found.shape[1:]) != promised:
                had = f"representation {name!r} gave shape {tuple(found.shape[1:])}"
                raise ValueError(f"{had}, its output_shape says {promised}")
        searching = [name for name in wanted if self.members[name].needs_neighbours]
        if distances and self.shown is not None:
            searching.append(self.shown)
        if not searching:
            return Represented(made)
        first = next((name for name in self.main if name in searching), searching[0])
        distance, index = view.nearest(self._seen[first].search)
        return Represented(made, distance[:, 0], index[:, 0])

    def mirrored(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """What the representations give of mirrored images; vectors stay as they are."""
        return {
            name: self.members[name].mirror(tensor, self._seen[name].space.embedding.mirror)
            for name, tensor in tensors.items()
        }

    def _inputs(self, view: _View, name: str) -> Inputs:
        member, seen = self.members[name], self._seen[name]
        embedded = view.embedded(seen.space)
        neighbours = random = None
        if member.needs_neighbours:
            neighbours = seen.space.points(view.nearest(seen.search)[1][:, : seen.neighbours], embedded)
        if member.needs_random_real:
            count = len(seen.space.content_ids)
            random = seen.space.points(random_indices(view.batch["content_id"].cpu(), count, self.seed), embedded)
        return Inputs(view.batch["image"], embedded, neighbours, random, seen.space.embedding.show)

    def of_pixels(self, batch: dict[str, Any], names: Iterable[str]) -> Callable[[Tensor], dict[str, Tensor]]:
        """A map from images (M, 3, H, W) near the single one of a batch to what networks see of them, with gradients.

        The real points stay those of the batch's image: which real is nearest does not change with a little of a pixel.
        """
        view = _View(batch)
        fixed = {name: self._inputs(view, name) for name in names}

        def represent(images: Tensor) -> dict[str, Tensor]:
            embedded: dict[int, Tensor] = {}
            made = {}
            for name, inputs in fixed.items():
                space = self._seen[name].space
                if id(space) not in embedded:
                    embedded[id(space)] = space.embedding(images)
                neighbours, random = (
                    None if real is None else real.clone().expand(len(images), *real.shape[1:])
                    for real in (inputs.neighbours, inputs.random)
                )
                seen = replace(
                    inputs, images=images, embedded=embedded[id(space)], neighbours=neighbours, random=random
                )
                made[name] = self.members[name](seen)
            return made

        return represent

    def coloured(self, name: str) -> bool:
        """Whether the channels of a representation are red, green and blue."""
        return self._seen[name].space.embedding.coloured

    def nearest_image(self, index: int, image_shape: tuple[int, ...], reals: Any = None) -> Tensor | None:
        """The real image ``(3, H, W)`` in [0, 1] of a point of the manifolds; None where it is nowhere.

        Where an 8-bit embedding gives points of the shape of an image, they are the images. Otherwise the point's
        content id is looked up in ``reals``, a map-style data set with ``content_ids``.
        """
        spaces = [space for space in self._spaces.values() if space.manifold is not None]
        for space in spaces:
            assert space.manifold is not None
            if space.embedding.eight_bit and space.manifold.shape == image_shape:
                return space.manifold.points(torch.tensor([index]))[0]
        if reals is None:
            return None
        places = (reals.content_ids == spaces[0].content_ids[index]).nonzero()
        if not len(places):
            return None
        image: Tensor = reals[int(places[0])]["image"]
        return image.float() / 255 if image.dtype == torch.uint8 else image

    # --- fitting ------------------------------------------------------------------------------------------------------

    def fit(self, training_batches: Callable[[int], Iterable[dict[str, Any]]]) -> None:
        """Fit what has to be fitted, on batches of that many training images."""
        for name, member in self.members.items():
            if member.fit_images:
                member.fit(self._inputs(_View(batch), name) for batch in training_batches(member.fit_images))

    def flush(self) -> None:
        """Keep what was found for the next run on the same data."""
        for space in self._spaces.values():
            space.flush()

    def identity(self) -> dict[str, Any]:
        """What representations of images depend on, as plain values."""
        fitted = {f"{name}.{key}": value for name, each in self.members.items() for key, value in each.state().items()}
        manifolds = [space.manifold.hash for space in self._spaces.values() if space.manifold is not None]
        return {**self._identity(), "fitted": content_hash(fitted), "manifolds": manifolds, "random reals": self.seed}

    def _identity(self) -> dict[str, Any]:
        versions = {name: member.version for name, member in self.members.items()}
        identity: dict[str, Any] = {"embedding": embedding_identity(self.embedding), "representations": versions}
        others = {
            name: {
                "space": embedding_identity(seen.space.embedding),
                "search": embedding_identity(seen.search.embedding),
                "neighbours": seen.neighbours,
            }
            for name, seen in self._seen.items()
            if seen != _Seen(self._default, self._default, 1)
        }
        return identity | ({"spaces": others} if others else {})

    def to_checkpoint(self) -> dict[str, Any]:
        """What was fitted, and the manifolds: their tensors, or hash and path where they are large."""
        saved: dict[str, Any] = {"representations": {name: member.state() for name, member in self.members.items()}}
        saved["identity"] = self._identity()
        opened = {key: space for key, space in self._spaces.items() if space.manifold is not None}
        saved["manifolds"] = {key: space.to_checkpoint() for key, space in opened.items()}
        return saved

    def load_checkpoint(self, saved: Mapping[str, Any]) -> None:
        """The inverse of :meth:`to_checkpoint`; earlier versions wrote a single manifold, or that alone.

        Raises:
            ValueError: The networks were trained on another version of the embedding or of a representation.
            FileNotFoundError: The manifold that the checkpoint names is gone.
        """
        if (trained_on := saved.get("identity", self._identity())) != self._identity():
            raise ValueError(f"the networks were trained on {trained_on}, found {self._identity()}; train them again")
        for name, state in saved.get("representations", {}).items():
            if name in self.members:
                self.members[name].load_state(state)
        manifolds = saved.get("manifolds", {})
        if "manifold" in saved:
            single = {"hash": saved["manifold_hash"], "path": saved["manifold_path"], "tensors": saved["manifold"]}
            manifolds = {space_key(self.embedding): single}
        for key, space in self._spaces.items():
            if space.needs_manifold:
                space.load_checkpoint(manifolds[key])

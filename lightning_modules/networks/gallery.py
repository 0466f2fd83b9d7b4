"""Sources that an attributor was not trained on, known by a few images of each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor


@dataclass(frozen=True)
class Nearest:
    """The enrolled source that is nearest to each image: `name` (N,), `similarity` (N,) to its nearest image."""

    name: list[str]
    similarity: Tensor


@dataclass(frozen=True)
class Gallery:
    """Features of unit length of enrolled images, (k, r) by the name of the source."""

    entries: dict[str, Tensor] = field(default_factory=dict)

    def with_source(self, name: str, features: Tensor) -> Gallery:
        """With another source, in place of one of the same name."""
        return Gallery({**self.entries, name: features.detach().cpu().float().contiguous()})

    def without(self, name: str) -> Gallery:
        """Without a source.

        Raises:
            ValueError: it is not enrolled.
        """
        if name not in self.entries:
            raise ValueError(f"found no enrolled source {name!r}, expected one of {', '.join(self.entries) or 'none'}")
        return Gallery({key: each for key, each in self.entries.items() if key != name})

    def nearest(self, features: Tensor) -> Nearest:
        """Of features (N, r) of unit length; the similarity is the cosine, in [-1, 1].

        Raises:
            ValueError: nothing is enrolled.
        """
        if not self.entries:
            raise ValueError("found an empty gallery, expected at least one enrolled source")
        seen = features.float()
        best = torch.stack([(seen @ each.T.to(seen.device)).amax(dim=1) for each in self.entries.values()])
        similarity, place = best.max(dim=0)
        names = list(self.entries)
        return Nearest([names[each] for each in place.tolist()], similarity)

    def counts(self) -> dict[str, int]:
        """Enrolled images by source."""
        return {name: len(each) for name, each in self.entries.items()}

    def to_checkpoint(self) -> dict[str, Tensor]:
        """The features by source."""
        return dict(self.entries)

    @classmethod
    def load(cls, saved: Mapping[str, Tensor] | None) -> Gallery:
        """The inverse of `to_checkpoint`; of nothing an empty one."""
        return cls(dict(saved or {}))


def check_names(name: str, sources: Sequence[str]) -> None:
    """Refuse a name that cannot be enrolled.

    Raises:
        ValueError: an empty name, or that of a trained source.
    """
    if not name.strip():
        raise ValueError("found an empty name, expected that of the new source, such as gan-new")
    if name in sources:
        raise ValueError(f"found the name {name!r}, which is that of a trained source; expected another one")

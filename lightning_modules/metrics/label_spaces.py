"""Label spaces that an attributor shares with a data set of other sources (ManiFPT, Table 4).

How labels are matched the paper does not say. Sources are called `<family>-<model>`, reals `real-<name>`. Two ways:

- `shared-model`: the sources that both have; all reals are one class, `real`;
- `family`: the families that both have (`gan`, `vae`, `flow`, `score`, `real`).

Images of a class that the attributor has not are left out, and so are answers that the test has not: a class is
answered with probability p(class) / sum of p(classes that both have), where p(class) is the sum over the trained
sources in it.
Chance is therefore 1 / number of these classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lightning_modules.common.tables import check_name

AS_TRAINED, SHARED_MODEL, FAMILY = "as-trained", "shared-model", "family"
LABEL_SPACES = (AS_TRAINED, SHARED_MODEL, FAMILY)
REAL = "real"


@dataclass(frozen=True)
class LabelSpace:
    """Classes that an attributor's sources and those of a test have in common.

    Attributes:
        name: ``shared-model`` or ``family``.
        classes: Sorted.
        trained: The attributor's sources, in the order of its logits.
        tested: The sources of the data set.
    """

    name: str
    classes: list[str]
    trained: list[str]
    tested: list[str]

    def class_of(self, source: str) -> str:
        """The class of a source, which may be none of `classes`."""
        family = source.partition("-")[0]
        return family if self.name == FAMILY or family == REAL else source

    @property
    def labels(self) -> dict[str, int]:
        """Position of its class for each tested source that has one; images of the others are left out."""
        places = {name: place for place, name in enumerate(self.classes)}
        return {source: places[self.class_of(source)] for source in self.tested if self.class_of(source) in places}

    def answers(self, logits: Tensor) -> Tensor:
        """Logits `(..., C)` of the classes from those of the trained sources `(..., K)`: log of summed probabilities.

        Raises:
            ValueError: another number of logits.
        """
        if logits.shape[-1] != len(self.trained):
            raise ValueError(f"found {logits.shape[-1]} logits, expected {len(self.trained)}: one a trained source")
        of_class = [self.class_of(source) for source in self.trained]
        members = [[place for place, own in enumerate(of_class) if own == name] for name in self.classes]
        return torch.stack([logits[..., places].logsumexp(dim=-1) for places in members], dim=-1)

    def to_json(self) -> dict[str, Any]:
        """What an evaluation says of it."""
        left = [source for source in self.tested if source not in self.labels]
        unused = [source for source in self.trained if self.class_of(source) not in self.classes]
        return {"name": self.name, "classes": self.classes, "left_out": left, "never_answered": unused}


def make_label_space(name: str, trained: Sequence[str], tested: Sequence[str]) -> LabelSpace:
    """The label space of an attributor's sources and those of a test.

    Raises:
        ValueError: no such label space, or fewer than two classes in common.
    """
    check_name("label_space", name, (SHARED_MODEL, FAMILY))
    wide = LabelSpace(name, [], list(trained), list(tested))
    common = {wide.class_of(source) for source in trained} & {wide.class_of(source) for source in tested}
    if len(common) < 2:
        raise ValueError(
            f"label_space {name}: found {len(common)} classes in common ({', '.join(sorted(common)) or 'none'}) of the "
            f"attributor's sources {list(trained)} and the test's {list(tested)}; expected at least 2"
            + ("; --label_space family joins the sources of one family" if name == SHARED_MODEL else "")
        )
    return LabelSpace(name, sorted(common), list(trained), list(tested))

"""A test of an attributor on a data set of other sources: labels that both have (`metrics.label_spaces`)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from lightning_modules.common.files import data_set_name
from lightning_modules.metrics.label_spaces import LabelSpace, make_label_space


def share_labels(name: str, trained: Sequence[str], image_size: tuple[int, int], data: Any) -> LabelSpace:
    """The label space of the trained sources and a data module's, whose labels are those of its classes from now on.

    Raises:
        ValueError: no such space, too few classes in common, images of another size than the attributor's, or a data
            module that cannot join sources.
    """
    if not hasattr(data, "relabel"):
        raise ValueError(f"label_space {name}: found data of {type(data).__name__}, expected a GMDataModule")
    _require_size(tuple(data.image_size), tuple(image_size))
    space = make_label_space(name, trained, data.sources)
    data.relabel(space.labels, space.classes)
    return space


def _require_size(found: tuple[int, ...], expected: tuple[int, ...]) -> None:
    if found != expected:
        raise ValueError(
            f"found images of {found[0]}x{found[1]} px, expected {expected[0]}x{expected[1]} px as trained on; scale "
            "them with --data.init_args.resize"
        )


def about_label_space(
    space: LabelSpace, data: Any, trained_with: Mapping[str, Any], described: Mapping[str, str]
) -> dict[str, Any]:
    """What the report of an evaluation says of it: entries `label_space` and `data`."""
    tested = data_set_name(getattr(data, "hparams", {}))
    trained = data_set_name(trained_with)
    told = space.to_json()
    text = f"{space.name}: {', '.join(space.classes)}; trained on {trained}, tested on {tested}"
    if told["left_out"]:
        text += f"; images left out, of sources that the training had not: {', '.join(told['left_out'])}"
    if told["never_answered"]:
        text += f"; never answered, for the test has none of them: {', '.join(told['never_answered'])}"
    return {
        "label_space": {**told, "trained_on": trained, "tested_on": tested},
        "data": {**described, "label space": text},
    }

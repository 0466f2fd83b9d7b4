"""The section of an attributor's report on single images: what is seen of them, and what the answer hangs on."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from lightning_modules.evaluation.explanations import Explanations
from lightning_modules.reporting.figures.explanation_rows import SEEN, columns_of
from lightning_modules.reporting.page import Block, Cell, FigureBlock, Section, Table, Text

_ABOUT = {
    "image": "the 8-bit test image",
    "spectrum": "power of its grey levels by frequency, zero in the middle, mean over the channels",
    "saliency": "how steeply the logit of the named source changes with a pixel: largest over the channels",
}


def explained_section(found: Explanations, path: Path, title_of: Callable[[str], str]) -> Section:
    """The figure at a path, and how to read it; `title_of` says what a representation is by its name."""
    rows: list[list[Cell]] = []
    for column in columns_of(found):
        name = column.name.removeprefix(SEEN)
        about = _ABOUT.get(column.name) or f"what the attributor sees: {title_of(name)}"
        smaller = found.reduced.get(column.name)
        rows.append([name, about + (f"; {smaller} times smaller here" if smaller else ""), column.scale])
    blocks: list[Block] = [
        FigureBlock(path, _caption(found), "Rows of test images with what is seen of them, spectrum and saliency"),
        Table(["column", "what it shows", "scale"], rows, "Scales are the same in all rows, but for the saliency."),
    ]
    blocks += [Text(reason) for reason in dict.fromkeys(each.reason for each in found.examples if each.reason)]
    intro = (
        "The first images of each source, in the order of the test, that were named rightly and wrongly. Before a row "
        "its true source, behind it the named source, the next two, and their probabilities."
    )
    return Section("Single images", blocks, intro)


def _caption(found: Explanations) -> str:
    if not any("saliency" in each.tensors for each in found.examples):
        return "What the attributor sees of single images."
    told = (
        "A bright pixel is one whose change by one grey level moves the named source's logit most; whether it speaks "
        "for or against the source is not said. It is the gradient at the image itself: what a small change does, not "
        "what the image without that pixel would be called."
    )
    if any(name.startswith(SEEN + "artifact") for each in found.examples for name in each.tensors):
        told += " The nearest real is held fixed."
    return told

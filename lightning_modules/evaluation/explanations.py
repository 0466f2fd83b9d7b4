"""Single images of an attributor's test, explained: what it sees of them, and which pixels its answer hangs on.

They are chosen and computed once all blocks are there, by one process, and kept beside the blocks.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray
from safetensors.torch import load, save
from torch import Tensor
from torch.nn.functional import avg_pool2d, max_pool2d

from lightning_modules.common.files import atomic_file
from lightning_modules.common.images import to_uint8
from lightning_modules.evaluation.answers import Answering
from lightning_modules.evaluation.attribution import PART
from lightning_modules.evaluation.blocks import BLOCKS, EvaluationFolder, read_matrix
from lightning_modules.metrics.label_spaces import LabelSpace
from lightning_modules.networks.controlled import MAIN
from lightning_modules.networks.saliency import own_logits, pixel_gradient

FILE = "explanations.parquet"
VERSION = 1
MOST_BYTES = 2**21
"""Of all that is kept for the pictures, before compression; larger images are kept smaller."""
_MOST_SIDE = 128  # pixels of a picture on a page
_MOST_NUMBERS = 256  # of a vector
_IMAGE, _SPECTRUM, _SALIENCY = "image", "spectrum", "saliency"
_KEY = b"explanations"


@dataclass(frozen=True)
class Explanation:
    """One test image and what was named.

    Attributes:
        index: Position in the test.
        path: Its file.
        label: Its source.
        probabilities: Of all sources.
        tensors: ``image`` uint8 ``(3, h, w)``, ``spectrum`` ``(h, w)`` in dB, ``saliency`` ``(h, w)`` with largest
            value 1, and `seen/NAME` of each representation: ``(c, h, w)`` or a vector; those that there are.
        slope: How much the logit changes with one grey level of the pixel that counts most; None without a map.
        reason: Why there is no map, or none of some branches; empty otherwise.
    """

    index: int
    path: str
    label: int
    probabilities: Sequence[float]
    tensors: Mapping[str, Tensor] = field(default_factory=dict)
    slope: float | None = None
    reason: str = ""

    @property
    def named(self) -> int:
        """The source with the largest probability."""
        return int(np.argmax(self.probabilities))

    @property
    def right(self) -> bool:
        """Whether that is its own."""
        return self.named == self.label


@dataclass(frozen=True)
class Explanations:
    """What the folder of a test holds of them.

    Attributes:
        examples: Right ones of a source before wrong ones, sources in their order.
        reduced: Whole factors by which pictures are smaller than what they show, by name of the tensor, where not 1.
    """

    examples: Sequence[Explanation]
    reduced: Mapping[str, int]


class Explainer:
    """Explains answers of an attributor.

    Args:
        answering: The attributor and what it sees.
        label_space: Classes that are answered in place of the trained sources, if these are not the test's.
    """

    def __init__(self, answering: Answering, label_space: LabelSpace | None) -> None:
        self.answering = answering
        self.answers = (lambda logits: logits) if label_space is None else label_space.answers
        represent, networks = answering.represent, answering.networks
        self.network = networks.networks[MAIN]
        self.names = networks.seen[MAIN]
        without = {name: represent.members[name].no_gradient for name in self.names}
        self.without = {name: reason for name, reason in without.items() if reason}
        self.followed = [name for name in self.names if name not in self.without]

    def pictures(self, batch: dict[str, Any], named: int) -> tuple[dict[str, Tensor], float | None, str]:
        """Of a batch of one image, at full size: tensors, slope and reason as `Explanation` has them."""
        image: Tensor = batch["image"][0]
        pictures = {_IMAGE: to_uint8(image), _SPECTRUM: spectrum(image)}
        with torch.no_grad():
            seen = self.answering.represent(batch, self.names).tensors
        for name, tensor in seen.items():
            if tensor.shape == batch["image"].shape and torch.equal(tensor, batch["image"]):
                continue  # the pixels themselves
            shown = tensor[0].detach().float()
            colour = shown.ndim != 3 or self.answering.represent.coloured(name)
            pictures[f"seen/{name}"] = shown if colour else shown.mean(dim=0, keepdim=True)
        found, reason = None, self._reason()
        if self.followed:
            found = pixel_gradient(self._logits_of(batch), image, named)
            if found is None:
                reason = "No map: nothing that is differentiable leads from the pixels to the answer."
        if found is None:
            return pictures, None, reason
        steepness = found.abs().amax(dim=0)
        largest = float(steepness.max())
        pictures[_SALIENCY] = steepness / largest
        return pictures, largest / 255, reason

    def _reason(self) -> str:
        if not self.without:
            return ""
        because = "; ".join(f"{name}: {reason}" for name, reason in self.without.items())
        if not self.followed:
            return f"No map: what is seen does not follow single pixels ({because})."
        return f"The map is of {', '.join(self.followed)} alone; no gradient flows through the others ({because})."

    def _logits_of(self, batch: dict[str, Any]) -> Any:
        """Calibrated logits of images near one; with `flip` the mean over an image and its mirror image."""
        answering = self.answering
        represent = answering.represent.of_pixels(batch, self.followed)

        def logits_of(images: Tensor) -> Tensor:
            seen = represent(images)
            logits = own_logits(self.network, seen)
            if answering.flip:
                logits = (logits + own_logits(self.network, answering.represent.mirrored(seen))) / 2
            found: Tensor = self.answers(answering.reference.calibrated(logits))
            return found

        return logits_of


def choose_examples(labels: NDArray[np.int64], named: NDArray[np.int64], sources: int, most: int) -> list[int]:
    """Places of at most so many images: of each source the first that are named rightly, then the first wrong ones.

    One of both for each source, or as many more as `most` allows; where it allows less, evenly chosen sources.
    """
    shown = np.arange(sources)
    if 2 * sources > most:
        count = max(1, most // 2)
        shown = np.unique(np.linspace(0, sources - 1, count).round().astype(np.int64))
    each = max(1, most // (2 * len(shown)))
    chosen: list[int] = []
    for source in shown:
        own = labels == source
        for right in (True, False):
            chosen += np.flatnonzero(own & ((named == labels) == right))[:each].tolist()
    return chosen[:most]


def explain_examples(folder: EvaluationFolder, explainer: Explainer, images: Any, most: int, device: Any) -> list[str]:
    """Explain images of a finished test and keep that beside its blocks, unless it is there already.

    Args:
        folder: Of the test.
        explainer: Of the attributor that was tested.
        images: The test images as a map-style data set (``GMDataModule.images``).
        most: Images to explain; 0 for none, and what is there is removed.
        device: Where the attributor is.

    Returns:
        What went wrong with single images; the others are kept.
    """
    path = folder.folder / BLOCKS / FILE
    if not most:
        path.unlink(missing_ok=True)
        return []
    about = {"version": VERSION, "evaluation": folder.evaluation.identity, "asked": most}
    if path.is_file() and about.items() <= _about(path).items():
        return []
    chosen, problems, found = _chosen(folder, most), [], []
    for index, label, probabilities in chosen:
        example = Explanation(index, "", label, probabilities)
        try:
            item = images[index]
            image = item["image"].to(device).float()[None] / 255
            batch = {"image": image, "content_id": torch.tensor([item["content_id"]]), "path": [item["path"]]}
            batch["label"] = torch.tensor([label])
            example = Explanation(index, item["path"], label, probabilities)
            shown = explainer.pictures(batch, example.named)
            found.append(Explanation(index, item["path"], label, probabilities, *shown))
        except Exception as error:  # whatever it is: the test is done, and no example is worth losing it
            problems.append(f"test image {index} {example.path}: {error}")
            found.append(Explanation(index, example.path, label, probabilities, reason="This image failed."))
    found, reduced = _reduced(found)
    _write(path, found, {**about, "reduced": reduced})
    return problems


def stored_explanations(folder: EvaluationFolder) -> Explanations | None:
    """What `explain_examples` has kept; None where it was not asked for."""
    path = folder.folder / BLOCKS / FILE
    if not path.is_file():
        return None
    about, table = _about(path), pq.read_table(path)
    examples = [
        Explanation(**{**row, "tensors": {} if row["tensors"] is None else load(row["tensors"])})
        for row in table.to_pylist()
    ]
    return Explanations(examples, about["reduced"])


def spectrum(image: Tensor) -> Tensor:
    """Power ``(H, W)`` of an image ``(3, H, W)`` by frequency, zero in the middle, in dB; mean over the channels.

    Of grey levels. The power that rounding to 8 bits leaves, 1/12 a pixel, is added first: below it nothing is to be
    seen.
    """
    levels = image.double() * 255
    power = torch.fft.fft2(levels).abs().square().mean(dim=0) / levels[0].numel()
    decibels: Tensor = 10 * torch.fft.fftshift(power + 1 / 12).log10()
    return decibels.float()


def _chosen(folder: EvaluationFolder, most: int) -> list[tuple[int, int, list[float]]]:
    """Index, label and probabilities of the images to explain."""
    index, labels, named = [], [], []
    for table in folder.read(PART, ["index", "label", "0.logits"]):
        index.append(read_matrix(table, "index").numpy())
        labels.append(read_matrix(table, "label").numpy())
        named.append(read_matrix(table, "0.logits").argmax(dim=1).numpy())
    own, answers = np.concatenate(labels), np.concatenate(named)
    places = choose_examples(own, answers, len(folder.evaluation.settings["sources"]), most)
    indices, wanted = np.concatenate(index), set(places)
    found, seen = {}, 0
    for table in folder.read(PART, ["0.logits"]):
        inside = [place for place in places if seen <= place < seen + table.num_rows] if wanted else []
        logits = read_matrix(table, "0.logits").double() if inside else None
        for place in inside:
            assert logits is not None
            found[place] = logits[place - seen].softmax(dim=0).tolist()
        seen += table.num_rows
    return [(int(indices[place]), int(own[place]), found[place]) for place in places]


# --- what is kept ----------------------------------------------------------------------------------------------------


def _reduced(examples: Sequence[Explanation]) -> tuple[list[Explanation], dict[str, int]]:
    """Pictures that are small enough to keep, and the factors by which they are smaller."""
    first = next((each.tensors for each in examples if each.tensors), {})
    maps = [tensor for tensor in first.values() if tensor.ndim > 1]
    bytes_of_pixel = sum((tensor.shape[0] if tensor.ndim == 3 else 1) * _width(tensor) for tensor in maps)
    affordable = math.isqrt(MOST_BYTES // max(1, len(examples) * bytes_of_pixel))
    side = max(1, min(_MOST_SIDE, affordable))
    factors: dict[str, int] = {}
    kept = []
    for each in examples:
        tensors = {}
        for name, tensor in each.tensors.items():
            size = max(tensor.shape[-2:]) if tensor.ndim > 1 else len(tensor)
            factor = -(-size // (side if tensor.ndim > 1 else _MOST_NUMBERS))
            if factor > 1:
                factors[name] = factor
            tensors[name] = _smaller(name, tensor.cpu(), factor).contiguous()
        kept.append(Explanation(**{**vars(each), "tensors": tensors}))
    return kept, factors


def _width(tensor: Tensor) -> int:
    return 1 if tensor.dtype == torch.uint8 else 2


def _smaller(name: str, tensor: Tensor, factor: int) -> Tensor:
    """A picture that is smaller by a factor, in the type that is kept.

    Images and spectra become means. Of maps and representations, which are fine and of both signs, the value of the
    largest magnitude stays.
    """
    if tensor.ndim == 1:
        rest = -len(tensor) % factor
        whole = torch.cat([tensor, tensor[-1:].expand(rest)]) if rest else tensor
        return whole.view(-1, factor).mean(dim=1).float()
    planes = tensor.float()[None] if tensor.ndim == 3 else tensor.float()[None, None]
    if factor > 1 and name in (_IMAGE, _SPECTRUM):
        planes = avg_pool2d(planes, factor, ceil_mode=True)
    elif factor > 1:
        high = max_pool2d(planes, factor, ceil_mode=True)
        low = -max_pool2d(-planes, factor, ceil_mode=True)
        planes = torch.where(high.abs() >= low.abs(), high, low)
    kept = planes[0] if tensor.ndim == 3 else planes[0, 0]
    return kept.round().to(torch.uint8) if tensor.dtype == torch.uint8 else kept.clamp(-65504, 65504).half()


def _write(path: Any, examples: Sequence[Explanation], about: Mapping[str, Any]) -> None:
    columns: dict[str, pa.Array] = {
        name: pa.array([getattr(each, name) for each in examples], type=kind)
        for name, kind in (
            ("index", pa.int64()),
            ("path", pa.large_string()),
            ("label", pa.int64()),
            ("probabilities", pa.list_(pa.float64())),
            ("slope", pa.float64()),
            ("reason", pa.large_string()),
        )
    }
    stored = [save(dict(each.tensors)) if each.tensors else None for each in examples]
    columns["tensors"] = pa.array(stored, type=pa.large_binary())
    table = pa.table(columns).replace_schema_metadata({_KEY: json.dumps(about, sort_keys=True)})
    with atomic_file(path) as partial:
        pq.write_table(table, partial, compression="zstd")


def _about(path: Any) -> dict[str, Any]:
    try:
        found: dict[str, Any] = json.loads((pq.read_schema(path).metadata or {}).get(_KEY, b"{}"))
    except (OSError, ValueError, pa.ArrowException):
        return {}
    return found

"""A test of an attributor: one block of images under every condition, and what the finished blocks say together."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from safetensors.torch import load, save
from torch import Tensor

from lightning_modules.common.content_ids import content_ids, overlap
from lightning_modules.common.images import eight_bit, to_uint8
from lightning_modules.evaluation.answers import Answering
from lightning_modules.evaluation.blocks import (
    ALONE,
    EvaluationFolder,
    matrix,
    read_matrix,
    require_finite,
)
from lightning_modules.evaluation.conditions import Condition, changed_images
from lightning_modules.evaluation.open_set import CalibrationFold, open_set_columns, unknown_estimates
from lightning_modules.metrics.attribution import attribution_estimates, attribution_metrics, even_selection
from lightning_modules.metrics.fdr import FrechetDistanceRatio
from lightning_modules.metrics.intervals import TRAINING_IMAGES, Estimate, proportion
from lightning_modules.metrics.label_spaces import LabelSpace
from lightning_modules.metrics.seed_accuracy import SeedAccuracy
from lightning_modules.networks.controlled import ControlledNetworks

PART = "test"
ABLATIONS = ("branch", "without")  # one branch of a fusion alone, and all but one
_FDR_IMAGES, _FDR_BYTES = 2**17, 2**28
"""Images, and bytes of their features, that FDR is computed from at most; of a larger test, evenly chosen ones."""
_LOOK_AT = "look at the weights of the network (a training that diverged?) and at the images"


class AttributionEvaluation:
    """Computes blocks.

    Args:
        answering: The attributor, its controls, and what is known beside them.
        conditions: Clean first.
        examples: Indices of the test images that a report shows.
        nearest_image: The real image (3, H, W) of a point of the manifold, or None.
        unknown: Whether images of sources that are held out are tested as well.
        label_space: Classes that are answered in place of the trained sources, if these are not the test's.
    """

    def __init__(
        self,
        answering: Answering,
        conditions: Sequence[Condition],
        examples: Collection[int],
        nearest_image: Callable[[int], Tensor | None],
        unknown: bool = False,
        label_space: LabelSpace | None = None,
    ) -> None:
        self.answering, self.represent, self.networks = answering, answering.represent, answering.networks
        self.conditions, self.unknown = conditions, unknown
        self.examples, self.nearest_image = frozenset(examples), nearest_image
        self.answers = (lambda logits: logits) if label_space is None else label_space.answers

    def columns(self, batch: Mapping[str, Any]) -> dict[str, pa.Array]:
        """The columns of a block of images: what the networks answer under every condition.

        Raises:
            ValueError: logits or features that are not finite.
        """
        images, labels = eight_bit(batch["image"]), batch["label"]
        columns: dict[str, pa.Array] = {name: matrix(batch[name]) for name in ("index", "label", "content_id")}
        columns["path"] = pa.array(batch["path"], type=pa.large_string())
        if "semantic" in batch:  # what images show, where the training was of some kinds alone
            columns["semantic"] = pa.array(batch["semantic"], type=pa.large_string())
        shown = self.represent.shown
        names = {*self.networks.inputs, *([] if shown is None else [shown])}
        for place, condition in enumerate(self.conditions):
            attacked = condition.apply(images, batch["index"])
            seen = {**{name: batch[name] for name in ("label", "path", "content_id")}, "image": attacked}
            if condition.attack is not None:  # the neighbour of what was searched, never the clean image's
                seen |= {"content_id": content_ids(attacked), "attacked": torch.ones_like(labels, dtype=torch.bool)}
                columns[f"{place}.changed"] = matrix(changed_images(attacked, images))
            found = self.represent(seen, names, distances=True)
            outputs = self.answering.outputs(found)
            answers = self.answering.of_outputs(outputs)
            logits, features = self.answering.reference.calibrated(answers.logits), answers.features
            for what, values in (("logits", logits), ("features", features)):
                require_finite(f"{what} under {condition.name}", values, batch["path"], _LOOK_AT)
            columns[f"{place}.logits"] = matrix(self.answers(logits.float()))
            columns[f"{place}.features"] = matrix(features.float())
            if self.unknown:
                columns |= open_set_columns(place, self.answering.reference, answers)
            if found.distance is not None:
                columns[f"{place}.distance"] = matrix(found.distance)
            if controls := control_names(self.networks.compared):
                named = torch.stack([self.answers(outputs[name][0]).argmax(dim=1) for name in controls], dim=1)
                columns[f"{place}.named"] = matrix(named.to(torch.int16))
            if (fusion := self.networks.fusion) is not None:
                columns[f"{place}.ablated"] = matrix(
                    self.answers(fusion.ablated(features)).argmax(dim=2).T.to(torch.int16)
                )
            if condition.attack is None:
                artifacts = None if shown is None else found.tensors[shown]
                columns["example"] = self._examples(batch, artifacts, found.nearest)
        return columns

    def _examples(self, batch: Mapping[str, Any], artifacts: Tensor | None, nearest: Tensor | None) -> pa.Array:
        """Images, nearest reals and artifacts of the rows that a report shows, as safetensors."""
        found: list[bytes | None] = []
        for place, index in enumerate(batch["index"].tolist()):
            if index not in self.examples or artifacts is None or nearest is None:
                found.append(None)
                continue
            tensors = {"image": to_uint8(batch["image"][place]).cpu(), "artifact": artifacts[place].detach().cpu()}
            real = self.nearest_image(int(nearest[place]))
            if real is not None:
                tensors["nearest"] = real.cpu()
            found.append(save({name: tensor.contiguous() for name, tensor in tensors.items()}))
        return pa.array(found, type=pa.large_binary())


def control_names(compared: Mapping[str, Sequence[str]]) -> list[str]:
    """The networks whose answers are kept, in the order of their column."""
    return [name for names in compared.values() for name in names]


def example_indices(labels: Sequence[int], each: int) -> list[int]:
    """Positions of the first images of each label."""
    seen: dict[int, int] = {}
    chosen = []
    for position, label in enumerate(labels):
        seen[label] = seen.get(label, 0) + 1
        if seen[label] <= each:
            chosen.append(position)
    return chosen


def attribution_settings(sources: Sequence[str], networks: ControlledNetworks, halvings: int, seed: int) -> Any:
    """What the fold has to know of the networks, as plain values."""
    branches = {} if networks.fusion is None else {"branches": networks.fusion.names}
    compared = dict(networks.compared)
    return {"sources": list(sources), "compared": compared, "halvings": halvings, "halving_seed": seed, **branches}


def training_images_of_test(tested: Tensor, trained_on: Tensor | None, allowed: bool) -> int | None:
    """How many test images the attributor was trained on, by the content ids of both; None where that is not known.

    A checkpoint of an earlier version does not say what trained it, and a warning says that.

    Raises:
        ValueError: there are some, and that is not `allowed`.
    """
    if trained_on is None:
        warnings.warn(
            "The checkpoint, of an earlier version, does not say which images trained it: whether test images are "
            "among them is not known. They are not if the data settings are those of its training.",
            stacklevel=2,
        )
        return None
    seen = overlap(tested, trained_on)
    if seen and not allowed:
        raise ValueError(
            f"found {seen:,} of {len(tested):,} test images among the images that the attributor was trained on; "
            "numbers on them say nothing of unseen images. Test with the training's own data settings (seed, "
            "fractions, images_per_source ...), or with --allow_training_images true, and the report will say so"
        )
    return seen


def fold_attribution(folder: EvaluationFolder) -> dict[str, Estimate]:
    """Every number of a finished evaluation with its interval, by name: `test/accuracy`, `test/jpeg_50/accuracy` ...

    Blocks are read one after the other, the columns of one condition at a time.
    """
    settings = folder.evaluation.settings
    found: dict[str, Estimate] = {}
    for place, entry in enumerate(folder.evaluation.conditions):
        condition = Condition.from_json(entry)
        found |= _of_condition(folder, place, condition, settings)
        found |= unknown_estimates(folder, place, f"test/{condition.prefix}", settings)
    found |= semantic_accuracies(folder)
    if seen := settings["training images"]:
        found[TRAINING_IMAGES] = proportion(seen, folder.parts[PART])
    return found


def _of_condition(
    folder: EvaluationFolder, place: int, condition: Condition, settings: Mapping[str, Any]
) -> dict[str, Estimate]:
    sources, prefix = settings["sources"], f"test/{condition.prefix}"
    metrics = attribution_metrics(len(sources), prefix, **ALONE)
    controls = {shown: SeedAccuracy(len(names), **ALONE) for shown, names in settings["compared"].items()}
    clean = condition.prefix == ""
    fdr = FrechetDistanceRatio(
        len(sources),
        seeds=settings["halvings"],
        seed=settings["halving_seed"],
        class_names=sources,
        **ALONE,
        shuffles=None if clean else 0,  # the null of the clean images serves: it depends on n and d
    )
    columns = ["index", "label", f"{place}.logits", f"{place}.features"]
    columns += [f"{place}.named"] if controls else []
    ablations = [f"{way}/{branch}" for way in ABLATIONS for branch in settings.get("branches", [])]
    ablated = torch.zeros(len(ablations), dtype=torch.int64)
    columns += [f"{place}.ablated"] if ablations else []
    columns += [] if clean else [f"{place}.changed"]
    changed, seen, used = 0, 0, _used_for_fdr(folder)
    calibration = CalibrationFold(settings)
    for table in folder.read(PART, columns):
        index, labels = read_matrix(table, "index"), read_matrix(table, "label")
        features = read_matrix(table, f"{place}.features")
        logits = read_matrix(table, f"{place}.logits")
        metrics.update(logits, labels)
        calibration.update(logits, labels)
        kept = used[seen : seen + len(labels)]
        seen += len(labels)
        fdr.update(features[kept], labels[kept], index[kept])
        if controls:
            named = read_matrix(table, f"{place}.named").long().T
            parts = torch.split(named, [metric.seeds for metric in controls.values()])
            for metric, predicted in zip(controls.values(), parts, strict=True):
                metric.update(predicted, labels)
        if ablations:
            ablated += (read_matrix(table, f"{place}.ablated") == labels[:, None]).sum(dim=0)
        if not clean:
            changed += int(read_matrix(table, f"{place}.changed").sum())
    found = attribution_estimates(metrics, sources)
    found |= {f"{prefix}{name}": estimate for name, estimate in calibration.estimates().items()}
    found[f"{prefix}fdr"] = fdr.estimate()
    if not bool(used.all()):
        found[f"{prefix}fdr"].details["left_out"] = int((~used).sum())
    if clean:
        found[f"{prefix}fdr_null"] = fdr.null_estimate()
    else:
        for known in ("chance", "majority"):
            del found[f"{prefix}{known}"]
        found[f"{prefix}changed_images"] = proportion(changed, folder.parts[PART])
    for shown, metric in controls.items():
        found[f"{prefix}control/{shown}/accuracy"] = metric.estimate()
    for name, right in zip(ablations, ablated.tolist(), strict=True):
        found[f"{prefix}{name}/accuracy"] = proportion(right, folder.parts[PART])
    return found


def semantic_accuracies(folder: EvaluationFolder) -> dict[str, Estimate]:
    """Accuracy of clean images by what they show, `test/semantic/dress/accuracy`; empty where the data do not say."""
    if not folder.has_column(PART, "semantic"):
        return {}
    right, counts = Counter[str](), Counter[str]()
    for table in folder.read(PART, ["label", "semantic", "0.logits"]):
        named = read_matrix(table, "0.logits").argmax(dim=1) == read_matrix(table, "label")
        shown = [str(value).replace("/", "_") for value in table["semantic"].to_pylist()]
        counts.update(shown)
        right.update(value for value, good in zip(shown, named.tolist(), strict=True) if good)
    return {f"test/semantic/{value}/accuracy": proportion(right[value], counts[value]) for value in sorted(counts)}


def _used_for_fdr(folder: EvaluationFolder) -> Tensor:
    """Which images FDR is computed from, in the order of the blocks: all, or as many of each source evenly chosen."""
    first = next(folder.read(PART, ["0.features"], rows=1))
    each = read_matrix(first, "0.features")[0].nbytes
    return _even_mask(_labels(folder), min(_FDR_IMAGES, _FDR_BYTES // each))


def _labels(folder: EvaluationFolder) -> NDArray[np.int64]:
    return np.concatenate([read_matrix(table, "label").numpy() for table in folder.read(PART, ["label"])])


def _even_mask(labels: NDArray[np.int64], most: int) -> Tensor:
    chosen = torch.ones(len(labels), dtype=torch.bool)
    if len(labels) > most:
        chosen[:] = False
        chosen[even_selection(labels, most // len(np.unique(labels)))] = True
    return chosen


def attribution_rows(folder: EvaluationFolder) -> Iterator[dict[str, Any]]:
    """One row for each image and condition, in the order of the images.

    Columns: `index`, `file`, `attack`, `source`, `predicted`, `probabilities` (by source), `distance` to the manifold
    in the embedding's units (if searched), `content_id` of the image before the attack, in hex.
    """
    sources = folder.evaluation.settings["sources"]
    names = [entry["name"] for entry in folder.evaluation.conditions]
    for table in folder.read(PART, rows=1):
        indices, files = table["index"].to_pylist(), table["path"].to_pylist()
        labels, identifiers = table["label"].to_pylist(), table["content_id"].to_pylist()
        logits = [read_matrix(table, f"{place}.logits").double().softmax(dim=1).tolist() for place in range(len(names))]
        searched = "0.distance" in table.column_names
        distances = [table[f"{place}.distance"].to_pylist() for place in range(len(names))] if searched else []
        for row, index in enumerate(indices):
            for place, attack in enumerate(names):
                probabilities = logits[place][row]
                yield {
                    "index": index,
                    "file": files[row],
                    "attack": attack,
                    "source": sources[labels[row]],
                    "predicted": sources[max(range(len(sources)), key=probabilities.__getitem__)],
                    "probabilities": dict(zip(sources, probabilities, strict=True)),
                    **({"distance": distances[place][row]} if searched else {}),
                    "content_id": f"{identifiers[row]:016x}",
                }


def clean_answers(folder: EvaluationFolder) -> tuple[NDArray[np.int64], dict[str, list[float]]]:
    """Confusion matrix `(K, K)`, rows = true source, and distances to the manifold by source, of clean images."""
    sources = folder.evaluation.settings["sources"]
    confusion = np.zeros((len(sources), len(sources)), dtype=np.int64)
    distances: dict[str, list[float]] = {}
    columns = ["label", "0.logits", *(["0.distance"] if folder.has_column(PART, "0.distance") else [])]
    for table in folder.read(PART, columns):
        labels = read_matrix(table, "label").numpy()
        np.add.at(confusion, (labels, read_matrix(table, "0.logits").argmax(dim=1).numpy()), 1)
        if "0.distance" in columns:
            for label, distance in zip(labels, read_matrix(table, "0.distance").tolist(), strict=True):
                distances.setdefault(sources[label], []).append(distance)
    return confusion, {source: distances[source] for source in sources if source in distances}


def shown_features(folder: EvaluationFolder, most: int) -> tuple[Tensor, list[int]]:
    """Features `(M, d)` of an even selection of at most `most` clean images, and their labels."""
    labels = _labels(folder)
    shown, features, seen = _even_mask(labels, most), [], 0
    for table in folder.read(PART, ["0.features"]):
        found = read_matrix(table, "0.features")
        features.append(found[shown[seen : seen + len(found)]])
        seen += len(found)
    return torch.cat(features), labels[shown.numpy()].tolist()


def stored_examples(folder: EvaluationFolder) -> dict[int, list[tuple[int, dict[str, Tensor]]]]:
    """Index and tensors `image`, `artifact`, `nearest` (float or uint8, see `AttributionEvaluation`) by label."""
    found: dict[int, list[tuple[int, dict[str, Tensor]]]] = {}
    for table in folder.read(PART, ["index", "label", "example"]):
        for place in np.flatnonzero(table["example"].is_valid().to_numpy(zero_copy_only=False)).tolist():
            label, index = table["label"][place].as_py(), table["index"][place].as_py()
            found.setdefault(label, []).append((index, load(table["example"][place].as_py())))
    return found

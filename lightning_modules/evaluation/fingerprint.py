"""A test of a fingerprint: one block of marked images or negatives, and what the finished blocks say together."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, cast

import numpy as np
import pyarrow as pa
import torch
from safetensors.torch import load, save
from torch import Tensor, nn

from lightning_modules.common.images import eight_bit, to_uint8
from lightning_modules.common.random_streams import seeded_keys
from lightning_modules.common.weights import content_hash
from lightning_modules.evaluation.blocks import (
    ALONE,
    EvaluationFolder,
    matrix,
    read_matrix,
    require_finite,
    some_rows,
)
from lightning_modules.evaluation.conditions import Condition, changed_images
from lightning_modules.evaluation.image_distances import MARKED, equal_images, image_distances, measured_features
from lightning_modules.fingerprints.decoders.base import KeyDecoder, KeyEstimate
from lightning_modules.fingerprints.decoders.losses import make_loss
from lightning_modules.fingerprints.marked_images import MarkedImages, MarkedPair, runs
from lightning_modules.fingerprints.settings import TestSettings
from lightning_modules.generators.bundled.load import load_named
from lightning_modules.generators.protocol import Generator
from lightning_modules.metrics.evidence import p_values, p_values_of_readings
from lightning_modules.metrics.extractors import FeatureExtractor, build_extractor
from lightning_modules.metrics.fingerprint_scores import (
    NEGATIVE_RATES,
    NEGATIVES,
    add_images,
    key_estimates,
    key_metrics,
    negative_metrics,
    rate_name,
)
from lightning_modules.metrics.image_quality import MeanOfPairs, PairScore, psnr, ssim
from lightning_modules.metrics.intervals import Estimate, proportion
from lightning_modules.metrics.key_evidence import REGISTRIES, REGISTRY_RATES, registry_estimates, within_rates

WRONG_KEYS = 2**41
"""Seed, less the experiment's, of the keys that negatives are compared with."""
REGISTRY_KEYS = 2**42
"""Likewise, of the random registries of one user that all negatives are compared with."""
SHOWN = 6
"""Marked images kept for the report."""
_LOOK_AT = "look at the weights of the decoder (a training that diverged?), at the generator and at the images"


class FingerprintEvaluation:
    """Computes blocks.

    Args:
        stream: Makes marked images by number.
        decoder: Reads them; it is given images alone.
        conditions: Clean first.
        settings: What is measured beside.
        parts: Images of each part, ``marked`` and kinds of negatives.
        seed: Of negatives and of the keys that they are compared with.
    """

    def __init__(
        self,
        stream: MarkedImages,
        decoder: KeyDecoder,
        conditions: Sequence[Condition],
        settings: TestSettings,
        parts: Mapping[str, int],
        seed: int,
    ) -> None:
        self.stream, self.decoder, self.conditions, self.seed = stream, decoder, conditions, seed
        other, size, self.device = settings.other_generator, stream.generator.image_size, stream.fingerprint.mean.device
        self.other = load_other(other, size) if "other_generator" in parts and other is not None else None
        self.negatives = max((count for part, count in parts.items() if part != MARKED), default=0)
        self.wrong_per_image = -(-self.negatives // parts[MARKED])
        self.equal = equal_images(parts)
        self.extractor: FeatureExtractor | None = None
        if (word := measured_features(settings, parts)) is not None:
            self.extractor = build_extractor(word).to(self.device)
        self.scores: dict[str, PairScore] = {"psnr": psnr, "ssim": ssim}
        self.perceptual = settings.perceptual
        if self.perceptual is not None:
            self.scores[f"perceptual_{self.perceptual['name']}"] = make_loss(**self.perceptual).to(self.device)

    def settings(self) -> dict[str, Any]:
        """What the fold has to know, and what numbers depend on beside fingerprint and decoder, as plain values."""
        extractor = self.extractor
        return {
            "bits": self.stream.fingerprint.bits,
            "scores": list(self.scores),
            "perceptual": self.perceptual,
            "p-values": "of the answer and of its readings",  # blocks of an earlier version have none, or other shares
            "extractor": None if extractor is None else {"name": extractor.name, "d": extractor.num_features},
            "other generator": None if self.other is None else content_hash(cast(nn.Module, self.other).state_dict()),
        }

    def columns(self, part: str, batch: Mapping[str, Any]) -> dict[str, pa.Array]:
        """The columns of a block of a part: margins of decoded bits, no key and no decoded bit.

        Raises:
            ValueError: logits that are not finite.
        """
        return self._marked(batch) if part == MARKED else self._negative(part, batch)

    def _marked(self, batch: Mapping[str, Tensor]) -> dict[str, pa.Array]:
        samples, index = batch["sample"], batch["index"]
        made = self.stream.make(samples)
        images = eight_bit(made.images)
        unmarked = eight_bit(self.stream.generator.synthesize(made.latents))
        columns = {"index": matrix(index)}
        for name, score in self.scores.items():
            columns[name] = matrix(score(images, unmarked).detach().double())
        seen = {place: condition.apply(images, samples) for place, condition in enumerate(self.conditions)}
        clean = self._decode(images, index, "clean")
        for place, attacked in seen.items():
            found = clean
            if place:
                changed = changed_images(attacked, images)
                found = self._of_changed(attacked, changed, clean, index, self.conditions[place].name)
                columns[f"{place}.changed"] = matrix(changed)
            columns[f"{place}.margins"] = matrix(key_margins(found.logits, made.keys))
            columns[f"{place}.p_value"] = matrix(p_values_of_readings(found.evidence, made.keys))
            columns[f"{place}.features"] = self._features(attacked, index < self.equal)
        columns["wrong"], columns["wrong.p_value"] = self._wrong_keys(clean, index)
        columns["example"] = self._examples(index, unmarked, seen)
        return columns

    def _negative(self, kind: str, batch: Mapping[str, Tensor]) -> dict[str, pa.Array]:
        index = batch["index"]
        images = eight_bit(batch["image"] if kind == "real" else self._made(kind, batch["sample"]))
        found = self._decode(images, index, kind)
        logits = found.logits
        wanted = {"real": self.equal, "unmarked": 2 * self.equal}.get(kind, 0)
        keys = self._random_keys(kind, index, logits)
        positive = within_rates(logits, seeded_keys(REGISTRIES, logits.shape[1], self.seed + REGISTRY_KEYS))
        return {
            "index": matrix(index),
            "margins": matrix(key_margins(logits, keys)),
            "p_value": matrix(p_values_of_readings(found.evidence, keys)),
            **{
                _registries(rate): matrix(torch.from_numpy(np.packbits(at_rate, axis=1)))
                for rate, at_rate in zip(REGISTRY_RATES, positive, strict=True)
            },
            "features": self._features(images, index < wanted),
        }

    def _decode(self, images: Tensor, index: Tensor, under: str) -> KeyEstimate:
        found = self.decoder.decode(images)
        named = [f"sample {number}" for number in index.tolist()]
        require_finite(f"logits ({under})", found.evidence.flatten(1), named, _LOOK_AT)
        return replace(found, logits=found.logits.float())

    def _of_changed(
        self, attacked: Tensor, changed: Tensor, clean: KeyEstimate, index: Tensor, under: str
    ) -> KeyEstimate:
        """Answers to attacked images; where an attack has left every pixel as it was, those to the clean image."""
        if not bool(changed.any()):
            return clean
        found = self._decode(attacked[changed], index[changed.to(index.device)], under)
        logits = clean.logits.clone()
        logits[changed] = found.logits
        readings = None if clean.readings is None else clean.readings.clone()
        if readings is not None and found.readings is not None:
            readings[changed] = found.readings
        return KeyEstimate(logits, clean.loss, readings=readings)

    def _features(self, images: Tensor, chosen: Tensor) -> pa.Array:
        chosen = chosen.cpu()
        features = None
        if self.extractor is not None and bool(chosen.any()):
            features = self.extractor(to_uint8(images[chosen.to(images.device)]))
            numbers = [f"image {place}" for place in range(len(features))]
            require_finite(f"features of {self.extractor.name}", features, numbers, "look at the extractor's weights")
        return some_rows(features, (chosen & (features is not None)).numpy())

    def _wrong_keys(self, found: KeyEstimate, index: Tensor) -> tuple[pa.Array, pa.Array]:
        """Margins of marked images against keys of others, several of each image, and their p-values."""
        margins: list[Any] = []
        chances: list[Any] = []
        for row, evidence, position in zip(found.logits, found.evidence, index.tolist(), strict=True):
            first = position * self.wrong_per_image
            numbers = torch.arange(first, max(first, min(first + self.wrong_per_image, self.negatives)))
            keys = self._random_keys("wrong_key", numbers, found.logits) if len(numbers) else None
            each = row.expand(0 if keys is None else len(keys), -1)
            margins.append(None if keys is None else key_margins(each, keys).flatten().cpu().numpy())
            tried = evidence.expand(len(each), -1, -1)
            chances.append(None if keys is None else p_values_of_readings(tried, keys).numpy())
        return pa.array(margins, type=pa.list_(pa.float32())), pa.array(chances, type=pa.list_(pa.float64()))

    def _random_keys(self, kind: str, numbers: Tensor, like: Tensor) -> Tensor:
        """A random key for each number of a kind of negative; no two negatives share one."""
        first = NEGATIVES.index(kind) * 2**32
        keys = [seeded_keys(1, like.shape[1], self.seed + WRONG_KEYS, first + int(i)) for i in numbers]
        return torch.cat(keys).to(like.device)

    def _examples(self, index: Tensor, unmarked: Tensor, seen: Mapping[int, Tensor]) -> pa.Array:
        found: list[bytes | None] = []
        for place, position in enumerate(index.tolist()):
            if position >= SHOWN:
                found.append(None)
                continue
            tensors = {"unmarked": unmarked[place]} | {str(number): images[place] for number, images in seen.items()}
            found.append(save({name: to_uint8(image).cpu().contiguous() for name, image in tensors.items()}))
        return pa.array(found, type=pa.large_binary())

    @torch.no_grad()
    def _made(self, kind: str, samples: Tensor) -> Tensor:
        generator = self.stream.generator if kind == "unmarked" else self.other
        assert generator is not None
        latents = [generator.sample_latents(stop - start, self.seed, start) for start, stop in runs(samples)]
        return generator.synthesize(torch.cat(latents)).to(self.device)


def key_margins(logits: Tensor, keys: Tensor) -> Tensor:
    """Evidence for the bits of keys: logits `(n, m)` where a bit is 1, their negative where it is 0; float32.

    Positive exactly where the decoded bit is the key's. It tells neither the key nor what was decoded.
    """
    margins = torch.where(keys, logits, -logits).float()
    right = (logits > 0) == keys  # a logit of 0 decodes to 0: the smallest number keeps that
    smallest = torch.finfo(torch.float32).tiny
    return torch.where((margins > 0) == right, margins, torch.where(right, smallest, -smallest))


def _registries(rate: float) -> str:
    """The column of packed bits that tell against which random registries a negative is within a rate."""
    return f"registries.{rate_name(rate)}"


# --- from finished blocks to results ---------------------------------------------------------------------------------


def fold_fingerprint(folder: EvaluationFolder) -> dict[str, Estimate]:
    """Every number of a finished evaluation with its interval and n, by name.

    `test/<condition>/...` of decoded keys, `test/negatives/<kind>/...`, `test/quality/...`. Blocks are read one after
    the other.
    """
    found = _key_results(folder) | _negative_results(folder)
    return found | _pair_results(folder) | image_distances(folder)


def _true(margins: Tensor) -> Tensor:
    return torch.ones_like(margins, dtype=torch.bool)


def _key_results(folder: EvaluationFolder) -> dict[str, Estimate]:
    bits = folder.evaluation.settings["bits"]
    found: dict[str, Estimate] = {}
    for place, entry in enumerate(folder.evaluation.conditions):
        name = entry["name"]
        metrics, changed, columns = key_metrics(bits, prefix=f"test/{name}/", **ALONE), 0, [f"{place}.margins"]
        columns += _there(folder, MARKED, f"{place}.p_value")
        for table in folder.read(MARKED, columns + ([f"{place}.changed"] if place else [])):
            margins = read_matrix(table, columns[0])
            add_images(metrics, margins, _true(margins), _chances(table, f"{place}."))
            changed += int(read_matrix(table, f"{place}.changed").sum()) if place else 0
        found |= key_estimates(metrics)
        if place:
            found[f"test/{name}/changed_images"] = proportion(changed, folder.parts[MARKED])
    return found


def _there(folder: EvaluationFolder, part: str, name: str) -> list[str]:
    """The name of a column that blocks of an earlier version are without; no name for these."""
    return [name] if folder.has_column(part, name) else []


def _chances(table: pa.Table, prefix: str = "") -> Tensor:
    """p-values of a table's images, float64 `(n,)`; those of an earlier version follow from its margins."""
    if f"{prefix}p_value" in table.column_names:
        return read_matrix(table, f"{prefix}p_value")
    margins = read_matrix(table, f"{prefix}margins")
    return p_values(margins, _true(margins))


def _negative_results(folder: EvaluationFolder) -> dict[str, Estimate]:
    bits = folder.evaluation.settings["bits"]
    metrics = {
        kind: negative_metrics(bits, NEGATIVE_RATES, prefix=f"test/negatives/{kind}/", **ALONE)
        for kind in (*NEGATIVES, "all")
    }

    def add(kind: str, margins: Tensor, chances: Tensor) -> None:
        for each in (kind, "all"):
            add_images(metrics[each], margins, _true(margins), chances)

    for table in folder.read(MARKED, ["wrong", *_there(folder, MARKED, "wrong.p_value")]):
        flat = table["wrong"].drop_null().combine_chunks()
        if len(flat):
            margins = torch.from_numpy(np.concatenate(flat.to_numpy(zero_copy_only=False))).reshape(-1, bits)
            chances = p_values(margins, _true(margins)) if len(table.column_names) == 1 else _joined(table)
            add("wrong_key", margins, chances)
    found: dict[str, Estimate] = {}
    for kind in [part for part in folder.parts if part != MARKED]:
        rates = [rate for rate in REGISTRY_RATES if folder.has_column(kind, _registries(rate))]
        positives = {rate: np.zeros(REGISTRIES, dtype=np.int64) for rate in rates}
        columns = ["margins", *_there(folder, kind, "p_value"), *map(_registries, rates)]
        for table in folder.read(kind, columns):
            add(kind, read_matrix(table, "margins"), _chances(table))
            for rate, counts in positives.items():
                packed = read_matrix(table, _registries(rate)).numpy()
                counts += np.unpackbits(packed, axis=1, count=REGISTRIES).sum(axis=0, dtype=np.int64)
        for rate, counts in positives.items():
            for name, estimate in registry_estimates(counts, folder.parts[kind], rate).items():
                found[f"test/negatives/{kind}/{name}_{rate_name(rate)}"] = estimate
    for each in metrics.values():
        if next(iter(each.values())).update_called:
            found |= key_estimates(each)
    return found


def _joined(table: pa.Table) -> Tensor:
    """p-values against keys of others, float64 `(n,)`."""
    flat = table["wrong.p_value"].drop_null().combine_chunks()
    return torch.from_numpy(np.concatenate(flat.to_numpy(zero_copy_only=False)))


def _pair_results(folder: EvaluationFolder) -> dict[str, Estimate]:
    metrics = {name: MeanOfPairs(**ALONE) for name in folder.evaluation.settings["scores"]}
    for table in folder.read(MARKED, list(metrics)):
        for name, metric in metrics.items():
            metric.update(read_matrix(table, name))
    return {f"test/quality/{name}": metric.estimate() for name, metric in metrics.items()}


def fingerprint_rows(folder: EvaluationFolder) -> Iterator[dict[str, Any]]:
    """One row a marked image: `index`, and `matching_bits` and `p_value` of its key by condition."""
    names = [entry["name"] for entry in folder.evaluation.conditions]
    columns = [f"{place}.margins" for place in range(len(names))]
    extra = [name for place in range(len(names)) for name in _there(folder, MARKED, f"{place}.p_value")]
    for table in folder.read(MARKED, ["index", *columns, *extra]):
        counts = [(read_matrix(table, column) > 0).sum(dim=1).tolist() for column in columns]
        chances = [_chances(table, f"{place}.").tolist() for place in range(len(names))]
        for row, index in enumerate(table["index"].to_pylist()):
            yield {
                "index": index,
                "matching_bits": {name: counts[place][row] for place, name in enumerate(names)},
                "p_value": {name: chances[place][row] for place, name in enumerate(names)},
            }


def stored_pairs(folder: EvaluationFolder) -> list[MarkedPair]:
    """The first marked images, with what attacks have left of them and the positions of wrong bits."""
    names = [entry["name"] for entry in folder.evaluation.conditions]
    margins = [f"{place}.margins" for place in range(len(names))]
    pairs: list[MarkedPair] = []
    for table in folder.read(MARKED, ["index", "example", *margins], rows=1):
        for row in np.flatnonzero(table["example"].is_valid().to_numpy(zero_copy_only=False)).tolist():
            images = {name: image.float() / 255 for name, image in load(table["example"][row].as_py()).items()}
            wrong = {
                name: [bit for bit, margin in enumerate(table[margins[place]][row].as_py()) if margin <= 0]
                for place, name in enumerate(names)
            }
            attacked = {name: images[str(place)] for place, name in enumerate(names) if place}
            pairs.append(MarkedPair(table["index"][row].as_py(), images["unmarked"], images["0"], attacked, wrong))
        if len(pairs) >= SHOWN or not table["example"].is_valid()[-1].as_py():
            break
    return pairs


# --- what does not fit -----------------------------------------------------------------------------------------------


def check_reals(data: Any, size: int) -> None:
    """Refuse, by a ValueError, a datamodule whose reals, if it has any, have not `size` pixels on both sides."""
    reals = getattr(data, "reals", None)
    if reals is None:
        return
    height, width = reals[0]["image"].shape[1:]
    if (height, width) != (size, size):
        raise ValueError(
            f"found reals of {height}x{width} px, expected {size}x{size} px as the generator's images; choose reals "
            "of that size, or none with --data.init_args.reals null"
        )


def load_other(name: str, size: int) -> Generator:
    """Load the generator of the negatives from elsewhere, by the path of a checkpoint or a bundled name.

    Raises:
        ValueError: no such generator, or images that have not `size` pixels on a side.
    """
    other: Generator = load_named(name, "auto", {})
    if other.image_size != size:
        raise ValueError(
            f"found an other generator of {other.image_size} px, expected {size} px; choose one of that size, or none "
            "with --model.init_args.test.other_generator null"
        )
    return other

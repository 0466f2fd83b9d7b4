"""What a test of a fingerprint does: marked images under every attack, negatives, quality, all read by one decoder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from lightning_modules.attacks import image_seeds, make_attacks
from lightning_modules.common.images import eight_bit
from lightning_modules.common.random_streams import seeded_keys
from lightning_modules.fingerprints.decoders.base import KeyDecoder
from lightning_modules.fingerprints.decoders.losses import make_loss
from lightning_modules.fingerprints.marked_images import MarkedImages, MarkedPair, runs
from lightning_modules.fingerprints.settings import TestSettings
from lightning_modules.generators.bundled.load import load_named
from lightning_modules.generators.protocol import Generator
from lightning_modules.metrics.fingerprint_scores import NEGATIVES, FingerprintScores

WRONG_KEYS = 2**41
"""Seed, less the experiment's, of the keys that negatives are compared with."""
SHOWN = 6
"""Marked images kept for the report."""


class FingerprintEvaluation:
    """Makes the test's images, decodes them and hands estimates to the scores.

    Args:
        stream: makes marked images by number.
        decoder: reads them; it is given images alone.
        attacks: as `make_attacks` takes them; clean images come first.
        other: generator of the negatives from elsewhere, by path or bundled name.
        seed: of attacks and of the keys that negatives are compared with.
        negatives: images of each kind of negative.
        marked: number of marked images.
    """

    def __init__(
        self,
        stream: MarkedImages,
        decoder: KeyDecoder,
        attacks: str | Sequence[str | Mapping[str, Any]],
        other: str | None,
        seed: int,
        negatives: int,
        marked: int,
    ) -> None:
        self.stream, self.decoder, self.seed = stream, decoder, seed
        self.attacks = {name: attack for name, attack in make_attacks(attacks).items() if name != "identity"}
        self.other = None if other is None else load_other(other, stream.generator.image_size)
        self.wrong_per_image = -(-negatives // marked)
        self.negatives = negatives
        self.examples: list[MarkedPair] = []

    @property
    def names(self) -> list[str]:
        """Names of all conditions, the clean one first."""
        return ["clean", *self.attacks]

    def marked(self, samples: Tensor, index: Tensor, scores: FingerprintScores) -> list[dict[str, Any]]:
        """Make, attack and decode marked images of numbers `(n,)`; returns their rows."""
        made = self.stream.make(samples)
        images = eight_bit(made.images)
        unmarked = eight_bit(self.stream.generator.synthesize(made.latents))
        scores.update_pairs(images, unmarked)
        scores.update_set("marked", images, index)
        seeds = image_seeds(self.seed, samples)
        seen = {"clean": images} | {name: attack.real(images, seeds) for name, attack in self.attacks.items()}
        rows: list[dict[str, Any]] = [{"index": int(i), "matching_bits": {}} for i in index]
        clean = self.decoder.decode(images).logits
        for name, attacked in seen.items():
            logits = clean if name == "clean" else self._decoded(attacked, images, clean)
            scores.update_keys(name, logits, made.keys)
            for row, count in zip(rows, ((logits > 0) == made.keys).sum(dim=1).tolist(), strict=True):
                row["matching_bits"][name] = count
        self._wrong_keys(clean, index, scores)
        del seen["clean"]
        for position in range(min(len(images), SHOWN - len(self.examples))):
            left = {name: attacked[position].cpu() for name, attacked in seen.items()}
            pair = unmarked[position].cpu(), images[position].cpu()
            self.examples.append(MarkedPair(int(index[position]), *pair, left))
        return rows

    def negative(self, kind: str, batch: dict[str, Tensor], scores: FingerprintScores) -> None:
        """Decode images that carry no key: `unmarked`, `other_generator` or `real`."""
        index = batch["index"]
        images = eight_bit(batch["image"] if kind == "real" else self._made(kind, batch["sample"]))
        scores.update_set(kind, images, index)
        logits = self.decoder.decode(images).logits
        scores.update_negatives(kind, logits, self._random_keys(kind, index, logits))

    def _decoded(self, attacked: Tensor, images: Tensor, clean: Tensor) -> Tensor:
        """Logits of attacked images; where an attack has left every pixel as it was, those of the clean image."""
        changed = (attacked != images).flatten(1).any(dim=1)
        logits = clean.clone()
        if bool(changed.any()):
            logits[changed] = self.decoder.decode(attacked[changed]).logits
        return logits

    def _wrong_keys(self, logits: Tensor, index: Tensor, scores: FingerprintScores) -> None:
        """Compare marked images with keys of others."""
        numbers = (index[:, None] * self.wrong_per_image + torch.arange(self.wrong_per_image).to(index)).flatten()
        repeated = logits.repeat_interleave(self.wrong_per_image, dim=0)
        kept = numbers < self.negatives
        if bool(kept.any()):
            keys = self._random_keys("wrong_key", numbers[kept], logits)
            scores.update_negatives("wrong_key", repeated[kept], keys)

    def _random_keys(self, kind: str, numbers: Tensor, like: Tensor) -> Tensor:
        """A random key for each number of a kind of negative; no two negatives share one."""
        first = NEGATIVES.index(kind) * 2**32
        keys = [seeded_keys(1, like.shape[1], self.seed + WRONG_KEYS, first + int(i)) for i in numbers]
        return torch.cat(keys).to(like.device)

    @torch.no_grad()
    def _made(self, kind: str, samples: Tensor) -> Tensor:
        generator = self.stream.generator if kind == "unmarked" else self.other
        assert generator is not None
        latents = [generator.sample_latents(stop - start, self.seed, start) for start, stop in runs(samples)]
        return generator.synthesize(torch.cat(latents)).to(self.stream.fingerprint.mean.device)


def make_scores(
    settings: TestSettings, evaluation: FingerprintEvaluation, parts: Sequence[str], equal: int
) -> FingerprintScores:
    """The metrics of an evaluation; a Frechet distance, of `equal` images a set, needs unmarked and real parts."""
    features = settings.features if {"unmarked", "real"} <= set(parts) else None
    loss = settings.perceptual
    perceptual = None if loss is None else (f"perceptual_{loss['name']}", make_loss(**loss))
    bits = evaluation.stream.fingerprint.bits
    return FingerprintScores(bits, evaluation.names, features, perceptual, equal)


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

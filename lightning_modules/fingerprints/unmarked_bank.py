"""What a trained decoder answers to images without a key: it travels with the fingerprint, beside its file.

A verdict is right at its rate over random keys (`metrics.evidence`). A key that somebody chose can be the answer that
the decoder gives to a whole family of images which nobody marked; a bank of such answers tells that key before it is
registered (`users.key_checks`), and tells `predict` what the generator's own images look like to the decoder
(`abstention`). It holds no key.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as to_safetensors
from torch import Tensor

from lightning_modules.attacks import image_seeds, make_attack
from lightning_modules.common.files import write_bytes
from lightning_modules.common.images import eight_bit
from lightning_modules.common.random_streams import seeded_keys
from lightning_modules.common.weights import content_hash
from lightning_modules.fingerprints.decoders.amortised import AmortisedDecoder
from lightning_modules.fingerprints.decoders.key_network import CalibratedNetwork
from lightning_modules.fingerprints.degenerate_images import degenerate_images
from lightning_modules.fingerprints.fingerprint import Fingerprint, FingerprintError
from lightning_modules.fingerprints.settings import FEWEST_OWN_IMAGES
from lightning_modules.generators.protocol import Generator
from lightning_modules.metrics.evidence import trusted

FILE_NAME = "unmarked_bank.safetensors"
FORMAT = "manifold-fingerprints unmarked bank"
VERSION = 1
AXES = 64
"""Coordinates of the latent outside the key, those of largest deviation, by which images are told from the own ones."""
OWN_ROWS = 128
"""Unmarked images of the generator whose answers are kept one by one."""
SEED = 2**44
"""Seed of the latents and keys of the generator's own images; no training, test or user of a small seed has it."""
RIDGE = 1e-3
"""Added to the variances of the decoded coordinates, in squared standard deviations of the prior."""
LEVELS = 127
"""Log odds are kept as whole numbers up to this, each row by itself: a verdict depends on their ratios alone."""
BATCH = 256


@dataclass(frozen=True)
class UnmarkedBank:
    """Answers to images without a key, and the distribution of the answers to the generator's own images."""

    fingerprint: str  # id of the one that the decoder was trained for
    decoder: str  # content hash of its network
    names: tuple[str, ...] = field(repr=False)  # what each image is, for people
    degenerate: int  # so many of the images, the first ones, show nothing
    log_odds: Tensor = field(repr=False)  # int8 (n, m), each row in a unit of its own
    alpha_mean: Tensor = field(repr=False)  # float32 (k,), of the decoded alpha of the generator's own images
    alpha_whitening: Tensor = field(repr=False)  # float32 (k, k), lower triangle: makes their deviations 1
    farthest_alpha: float  # largest distance by `alpha_distance` of own images, which had no part in mean and whitening
    farthest_latent: float  # largest distance by `latent_distance` of own latents
    nearest: float  # largest `likeness` of own images to one of the degenerate ones, in [-1, 1]
    own_images: int  # on which these three were measured

    @property
    def bits(self) -> int:
        """Length m of a key."""
        return self.log_odds.shape[1]

    def alpha_distance(self, alpha: Tensor) -> Tensor:
        """Mahalanobis distance of decoded alpha `(n, k or more)` from those of own images, float64 `(n,)`.

        It is divided by the root of k, so that own images lie about 1.
        """
        used = alpha[:, : len(self.alpha_mean)].detach().cpu().double() - self.alpha_mean.double()
        return (used @ self.alpha_whitening.double().T).square().mean(dim=1).sqrt()

    def likeness(self, logits: Tensor) -> tuple[Tensor, Tensor]:
        """Cosine of logits `(n, m)` with those of the degenerate image whose are most alike, and its row; both `(n,)`.

        Logits are weighed as a verdict weighs them (`metrics.evidence.trusted`).
        """
        rows = F.normalize(self.log_odds[: self.degenerate].double(), dim=1)
        found = (F.normalize(trusted(logits), dim=1) @ rows.T).max(dim=1)
        return found.values, found.indices


def latent_distance(latents: Tensor, fingerprint: Fingerprint) -> Tensor:
    """Mahalanobis distance of latents `(n, d)` from the fingerprint's prior, float64 `(n,)`.

    It is taken along the leading `AXES` outside the key, whose deviations the fingerprint holds, and divided by the
    root of their number, so that the generator's own latents lie about 1.
    """
    axes = fingerprint.other_axes[:AXES].cpu().double()
    deviations = fingerprint.other_deviation[:AXES].cpu().double().clamp_min(1e-6)
    along = (latents.detach().cpu().double() - fingerprint.mean.cpu().double()) @ axes.T / deviations
    return along.square().mean(dim=1).sqrt()


@torch.no_grad()
def make_bank(
    generator: Generator,
    fingerprint: Fingerprint,
    network: CalibratedNetwork,
    attack: str | dict[str, Any],
    own_images: int = 1000,
    foreign: Sequence[tuple[str, Tensor]] = (),
    seed: int = SEED,
) -> UnmarkedBank:
    """Decode images without key, and the generator's own, with a trained network.

    Mean and whitening of the decoded alpha follow from the first half of the own images: unmarked, marked with a random
    key each, and marked and attacked. The limit of their distance is that of the other half.

    Args:
        generator: the frozen generator.
        fingerprint: of the generator, on its device.
        network: trained to read its keys.
        attack: what the network's training images met; see `make_attack`.
        own_images: latents of the generator, at least `FEWEST_OWN_IMAGES`; a thousand for limits worth their name.
        foreign: names and images float32 `(n, 3, H, W)` in [0, 1] of other sources, real ones among them.
        seed: of latents, keys and attacks.

    Raises:
        ValueError: fewer own images.
    """
    if own_images < FEWEST_OWN_IMAGES:
        raise ValueError(
            f"found {own_images} of the generator's own images, expected at least {FEWEST_OWN_IMAGES}, better 1,000"
        )
    decoder, device = AmortisedDecoder(network), fingerprint.mean.device
    named = list(degenerate_images(generator.image_size))
    names, answers = [name for name, _ in named], [_logits(decoder, torch.stack([image for _, image in named]), device)]
    degenerate = len(names)
    for name, images in foreign:
        names += [f"{name} {number}" for number in range(len(images))]
        answers.append(_logits(decoder, eight_bit(images), device))
    half = own_images // 2
    fitted, held, near, latents, own = [], [], [], [], []
    for start, stop in _runs(own_images):
        some = generator.sample_latents(stop - start, seed, start).to(device)
        keys = seeded_keys(stop - start, fingerprint.bits, seed, start).to(device)
        marked = eight_bit(generator.synthesize(fingerprint.embed(some, keys)))
        attacked = make_attack(attack).real(marked, image_seeds(0, torch.arange(start, stop))).to(device)
        first = max(0, min(half - start, stop - start))  # of these, so many belong to the first half
        for kind, images in enumerate((eight_bit(generator.synthesize(some)), marked, attacked)):
            answer = decoder.starts(images)
            logits, alpha = answer.logits.cpu(), answer.alpha.cpu()
            fitted.append(alpha[:first, :AXES])
            held.append(alpha[first:, :AXES])
            near.append(logits)
            if kind == 0:
                own.append(logits[: max(0, OWN_ROWS - start)])
        latents.append(latent_distance(some, fingerprint))
    answers.append(torch.cat(own))
    names += [f"unmarked image {number} of the generator" for number in range(len(answers[-1]))]
    mean, whitening = _whitening(torch.cat(fitted))
    everything = _whole_numbers(torch.cat(answers))
    bank = UnmarkedBank(
        fingerprint=fingerprint.id,
        decoder=content_hash(network.state_dict()),
        names=tuple(names),
        degenerate=degenerate,
        log_odds=everything,
        alpha_mean=mean,
        alpha_whitening=whitening,
        farthest_alpha=math.inf,
        farthest_latent=float(torch.cat(latents).max()),
        nearest=-1.0,
        own_images=own_images,
    )
    farthest = float(bank.alpha_distance(torch.cat(held)).max())
    return replace(bank, farthest_alpha=farthest, nearest=float(bank.likeness(torch.cat(near))[0].max()))


def _runs(count: int) -> Iterator[tuple[int, int]]:
    for start in range(0, count, BATCH):
        yield start, min(start + BATCH, count)


def _logits(decoder: AmortisedDecoder, images: Tensor, device: torch.device) -> Tensor:
    return torch.cat([decoder.starts(some.to(device)).logits.cpu() for some in torch.split(images, BATCH)])


def _whitening(alpha: Tensor) -> tuple[Tensor, Tensor]:
    """Mean `(k,)` and inverse Cholesky factor `(k, k)` of coordinates `(n, k)`."""
    wide = alpha.double()
    mean = wide.mean(dim=0)
    covariance = (wide - mean).T @ (wide - mean) / len(wide) + RIDGE * torch.eye(wide.shape[1], dtype=torch.float64)
    return mean.float(), torch.linalg.inv(torch.linalg.cholesky(covariance)).float()


def _whole_numbers(logits: Tensor) -> Tensor:
    """Log odds as a verdict takes them, each row scaled so that the largest is `LEVELS`; int8 `(n, m)`."""
    odds = trusted(logits)
    largest = odds.abs().amax(dim=1, keepdim=True).clamp_min(torch.finfo(torch.float64).tiny)
    return (odds / largest * LEVELS).round().to(torch.int8)


TENSORS = ("log_odds", "alpha_mean", "alpha_whitening")
PLAIN = {"fingerprint": str, "decoder": str, "names": list, "degenerate": int, "own_images": int}
PLAIN |= {"farthest_alpha": float, "farthest_latent": float, "nearest": float}


def write_bank(bank: UnmarkedBank, path: Path) -> None:
    """Write a bank as one safetensors file, atomically."""
    plain = {name: list(bank.names) if name == "names" else getattr(bank, name) for name in PLAIN}
    manifest = json.dumps({"format": FORMAT, "version": VERSION, **plain}, sort_keys=True)
    tensors = {name: getattr(bank, name).detach().cpu().contiguous() for name in TENSORS}
    write_bytes(path, to_safetensors(tensors, metadata={"manifest": manifest}))


def bank_of_decoder(path: Path | None, fingerprint: str, network: CalibratedNetwork) -> tuple[UnmarkedBank | None, str]:
    """The bank of a network that reads keys of the fingerprint of that id; without one None, and what to say of it.

    Raises:
        FingerprintError: see `read_bank`.
    """
    if path is None:
        return None, (
            "found no bank of decoded images without key beside the checkpoint, so images far from the generator's get "
            "a verdict; make it with `evaluate.py users bank RUN`"
        )
    bank = read_bank(path, fingerprint)
    if bank.decoder == content_hash(network.state_dict()):
        return bank, ""
    return None, (
        f"{path}: found the answers of another decoder than the checkpoint's, so images that are far from the "
        "generator's get a verdict; make it again with `evaluate.py users bank RUN`"
    )


def read_bank(path: Path, fingerprint: str | None = None) -> UnmarkedBank:
    """Read a bank that `write_bank` wrote, for the fingerprint of that id where one is given.

    Raises:
        FingerprintError: no such file, damaged, of another version, or made for another fingerprint.
    """
    if not path.is_file():
        raise FingerprintError(f"found no file {path}, expected a bank of decoded images without key")
    again = "make it again with `evaluate.py users bank RUN`"
    try:
        with safe_open(path, framework="pt") as file:
            manifest: Any = json.loads((file.metadata() or {}).get("manifest", "null"))
            tensors: dict[str, Any] = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError, ValueError) as error:
        raise FingerprintError(f"{path}: found a truncated or damaged file ({error}); {again}") from error
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT or manifest.get("version") != VERSION:
        raise FingerprintError(f"{path}: found no bank of version {VERSION}; {again}")
    whole = all(isinstance(manifest.get(name), kind) for name, kind in PLAIN.items()) and set(TENSORS) <= set(tensors)
    if not whole or not _fit(manifest, tensors):
        raise FingerprintError(f"{path}: found a damaged bank, parts of which are missing; {again}")
    if fingerprint is not None and manifest["fingerprint"] != fingerprint:
        raise FingerprintError(
            f"{path}: found a bank for the fingerprint {manifest['fingerprint'][:12]}, expected one for "
            f"{fingerprint[:12]}; {again}, or remove it"
        )
    plain = {name: manifest[name] for name in PLAIN} | {"names": tuple(manifest["names"])}
    return UnmarkedBank(**plain, **{name: tensors[name] for name in TENSORS})


def _fit(manifest: dict[str, Any], tensors: dict[str, Any]) -> bool:
    odds, mean, whitening = (tensors[name] for name in TENSORS)
    return (
        odds.dtype == torch.int8
        and odds.ndim == 2
        and len(odds) == len(manifest["names"])
        and 0 <= manifest["degenerate"] <= len(odds)
        and mean.ndim == 1
        and whitening.shape == (len(mean), len(mean))
    )

"""Named users under everyday attacks, the table of docs/keys_of_64_bits.md.

`python -m pytest tests/benchmarks -m benchmark -s -k everyday`: 400 images of 100 keys by `ldm64`, as 8-bit files, read
as they are by one pass of the network and by the decoder that its checkpoint names, by all its registrations, and four
of one key together. Wrong keys are random ones.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps
from torch import Tensor

from datamodules.images.pixel_path import fit
from lightning_modules.attacks import image_seeds, make_attack
from lightning_modules.common.images import eight_bit, to_uint8
from lightning_modules.common.random_streams import seeded_keys
from lightning_modules.fingerprints.decoders.amortised import AmortisedDecoder
from lightning_modules.fingerprints.decoders.base import KeyEstimate
from lightning_modules.fingerprints.decoders.networks import build_network, take_network
from lightning_modules.fingerprints.settings import DecoderSettings, TrainingSettings
from lightning_modules.fingerprints.users.verdicts import combine
from lightning_modules.latent_fingerprint import LatentFingerprint
from lightning_modules.metrics.evidence import p_values, p_values_of_readings

TRAINED = Path(__file__).parents[2] / "lightning_modules" / "fingerprints" / "trained"
LDM64, LDM64_EMOJI, STYLEGAN2_64 = TRAINED / "ldm64", TRAINED / "ldm64_emoji", TRAINED / "stylegan2_64"
CONDITIONS = (
    *("clean", "paper-scaled-noise", "paper-scaled-jpeg", "paper-scaled-combination", "flip", "shift_1", "crop_0.9"),
    *("flip + crop_0.9", "scaling_0.5", "rotation_2", "webp_50", "social", "blur_1", "life-chain"),
)
REGISTERED_HYBRID = DecoderSettings("hybrid", {"registrations": ["flip", "shift", "zoom", "turn"]})
RATE, FEW, MANY, TOGETHER = 1e-6, 50, 1_000_000, 4


class Named(NamedTuple):
    """Bits right, and images that are named among `FEW` and among `MANY` users, all in [0, 1]."""

    bits: float
    few: float
    many: float


@dataclass(frozen=True)
class Shares:
    """Of the images under one condition."""

    network: Named  # by one pass of the network, of the image as it is
    as_it_is: Named  # by the decoder
    readings: Named  # by the decoder and all its registrations
    together: float  # named among many by four images of one key
    wrong_few: float  # of random keys, with a p-value that names among few
    wrong: float  # of random keys, at a nominal 0.05


def shares(run: Path, conditions: tuple[str, ...], keys: int, **changes: Any) -> dict[str, Shares]:
    """Each condition's shares, of `TOGETHER` images a key; `changes` are those of the checkpoint's settings. Prints."""
    module = LatentFingerprint.load_from_checkpoint(run / "checkpoints" / "last.ckpt", **changes).eval()
    count, (own, images) = keys * TOGETHER, marked(module, keys)
    others = seeded_keys(count, module.fingerprint.bits, 78, 0)
    decoder, asked, seeds = module.key_decoder(), module.decoder, image_seeds(0, torch.arange(count))
    unmoved = None
    if (asked.options or {}).get("registrations"):
        module.decoder = replace(asked, options={**(asked.options or {}), "registrations": []})
        unmoved = module.key_decoder()
    found = {}
    for name in conditions:
        seen = attacked(images, name, seeds)
        answer = decoder.decode(seen)
        as_it_is = answer if unmoved is None else unmoved.decode(seen)
        wrong = p_values_of_readings(answer.evidence, others)
        joined = p_values_of_readings(_together(answer), own[::TOGETHER])
        assert answer.network_logits is not None
        found[name] = one = Shares(
            _shares_of(KeyEstimate(answer.network_logits[:, 0], answer.loss), own),
            _shares_of(as_it_is, own),
            _shares_of(answer, own),
            _named(joined, MANY),
            _named(wrong, FEW),
            float((wrong <= 0.05).double().mean()),
        )
        values = (*one.network, *one.as_it_is, *one.readings, one.together)
        shown = [f"{100 * value:5.1f}" for value in values]
        told = f"wrong keys: named {one.wrong_few:.4f}, at 0.05 {one.wrong:.4f}"
        print(f"{name:26s} {' '.join(shown)}   {told}", flush=True)
    return found


def named_by_search(
    run: Path, conditions: tuple[str, ...], images: int, **changes: Any
) -> dict[str, tuple[float, float, float]]:
    """Bits right, share named among `FEW` and among `MANY`, an image a key, by the decoder of the checkpoint.

    `changes` are those of its settings. Prints each condition.
    """
    module = LatentFingerprint.load_from_checkpoint(run / "checkpoints" / "last.ckpt", **changes).eval()
    own = seeded_keys(images, module.fingerprint.bits, 79, 0)
    with torch.no_grad():  # other latents than those on which the options of `hybrid` were chosen, not of `refined`
        latents = module.fingerprint.embed(module.generator.sample_latents(images, 99, 20_000), own)
        marked_images = eight_bit(module.generator.synthesize(latents))
    decoder, seeds, found = module.key_decoder(), image_seeds(0, torch.arange(images)), {}
    for name in conditions:
        seen = attacked(marked_images, name, seeds)
        answer = decoder.decode(seen)
        chances = p_values_of_readings(answer.evidence, own)
        bits, few, many = float((answer.bits == own).double().mean()), _named(chances, FEW), _named(chances, MANY)
        found[name] = bits, few, many
        line = f"bits {100 * bits:.1f} %, named among 50 {100 * few:.1f} %, among a million {100 * many:.1f} %"
        print(f"{name}: {line}", flush=True)  # a condition takes minutes
    return found


def before_training(run: Path, keys: int) -> dict[str, tuple[float, float]]:
    """Bits right in clean images and share named among `MANY`, by networks with corrections that nobody has trained."""
    module = LatentFingerprint.load_from_checkpoint(run / "checkpoints" / "last.ckpt").eval()
    own, images = marked(module, keys)
    found = {}
    for name, settings in {
        "trained network": TrainingSettings(),
        "encoder": TrainingSettings(backbone="encoder"),
        "trained network, corrected": TrainingSettings(corrections=2, start="given"),
        "encoder, corrected": TrainingSettings(backbone="encoder", corrections=2),
    }.items():
        network = build_network(module.key, settings, module.generator, module.fingerprint).eval()
        if settings.backbone != "encoder":
            take_network(network, run)
        network.take_fingerprint(module.fingerprint, anew=True)
        logits = AmortisedDecoder(network).decode(images).logits
        found[name] = float(((logits > 0) == own).double().mean()), _named(p_values(logits, own), MANY)
    return found


def bits_from_sizes(run: Path, sizes: tuple[int, ...], keys: int) -> dict[int, float]:
    """Share of right bits of files that were resized bicubically and brought back as `predict` does, read once."""
    module = LatentFingerprint.load_from_checkpoint(run / "checkpoints" / "last.ckpt").eval()
    own, images = marked(module, keys)
    height, width = images.shape[-2:]
    pictures = to_uint8(images).permute(0, 2, 3, 1).numpy()
    found = {}
    for size in sizes:
        files = [np.asarray(Image.fromarray(each).resize((size, size), Image.Resampling.BICUBIC)) for each in pictures]
        back = torch.from_numpy(np.stack([fit(file, (height, width)) for file in files]))
        answer = AmortisedDecoder(module.network).decode(back.permute(0, 3, 1, 2).float() / 255.0)
        found[size] = float((answer.bits == own).double().mean())
    return found


def named_in_frames(run: Path, widths: tuple[int, ...], colours: tuple[str, ...], keys: int) -> dict[str, float]:
    """Share named among `FEW` users by all readings, of files with a frame of some pixels around the picture."""
    module = LatentFingerprint.load_from_checkpoint(run / "checkpoints" / "last.ckpt").eval()
    own, images = marked(module, keys)
    pictures = [Image.fromarray(each) for each in to_uint8(images).permute(0, 2, 3, 1).numpy()]
    decoder, found = module.key_decoder(), {}
    for colour in colours:
        for width in widths:
            files = [np.asarray(ImageOps.expand(each, width, colour)) for each in pictures]
            back = torch.from_numpy(np.stack([fit(file, tuple(images.shape[-2:])) for file in files]))
            answer = decoder.decode(back.permute(0, 3, 1, 2).float() / 255.0)
            found[f"{colour}, {width} px"] = _named(p_values_of_readings(answer.evidence, own), FEW)
    return found


def attacked(images: Tensor, condition: str, seeds: Tensor) -> Tensor:
    """Images after `clean`, an attack, or several one after the other (`flip + crop_0.9`)."""
    for name in condition.split(" + "):
        if name != "clean":
            images = make_attack(name).real(images, seeds)
    return images


def marked(module: LatentFingerprint, keys: int) -> tuple[Tensor, Tensor]:
    """Keys `(n, m)`, each `TOGETHER` times, and 8-bit images `(n, 3, H, W)` that carry them."""
    latents = module.generator.sample_latents(keys * TOGETHER, 99, 10_000)
    own = seeded_keys(keys, module.fingerprint.bits, 77, 0).repeat_interleave(TOGETHER, 0)
    with torch.no_grad():
        return own, eight_bit(module.generator.synthesize(module.fingerprint.embed(latents, own)))


def _shares_of(answer: KeyEstimate, own: Tensor) -> Named:
    chances = p_values_of_readings(answer.evidence, own)
    return Named(float((answer.bits == own).double().mean()), _named(chances, FEW), _named(chances, MANY))


def _named(chances: Tensor, users: int) -> float:
    return float((chances * users <= RATE).double().mean())


def _together(answer: KeyEstimate) -> Tensor:
    """Evidence of four images each, answer by answer and reading by reading."""
    evidence = answer.evidence.double().unflatten(0, (-1, TOGETHER)).transpose(1, 2)  # (keys, r, 4, m)
    return torch.stack([torch.stack([combine(four) for four in readings]) for readings in evidence])


@pytest.mark.benchmark
@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_everyday_attacks() -> None:
    for one in shares(LDM64, CONDITIONS, keys=100).values():
        assert one.wrong_few == 0.0
        assert one.wrong < 0.07


@pytest.mark.benchmark
@pytest.mark.slow
@pytest.mark.timeout(14400)
@pytest.mark.parametrize("run", [TRAINED / "ldm64_corrected", LDM64_EMOJI], ids=lambda run: run.name)
def test_corrected_answers(run: Path) -> None:
    """A reading costs more: all conditions by one reading, moved images by all."""
    once = shares(run, CONDITIONS, keys=100, decoder=DecoderSettings("refined"))
    registered = shares(run, ("flip", "shift_1", "crop_0.9", "flip + crop_0.9"), keys=10)
    assert once["clean"].network.many > 0.9
    assert once["clean"].as_it_is.many > 0.9
    assert all(one.wrong_few == 0.0 for one in (*once.values(), *registered.values()))


@pytest.mark.benchmark
@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_pictures_in_frames() -> None:
    for name, share in named_in_frames(LDM64, (2, 4, 8), ("black", "white", "red"), keys=25).items():
        print(f"{name}: {100 * share:.1f} % named")
        assert share > 0.7


@pytest.mark.benchmark
@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_searches_for_64_bits() -> None:
    """The StyleGAN2's keys of 64 bits, read by `hybrid`."""
    found = named_by_search(STYLEGAN2_64, CONDITIONS[:4], images=100)
    assert found["clean"][2] > 0.8


@pytest.mark.benchmark
@pytest.mark.slow
@pytest.mark.timeout(14400)
def test_registered_images() -> None:
    """The latent diffusion's, read by `hybrid` from the likeliest of all readings."""
    found = named_by_search(LDM64, CONDITIONS, images=100, decoder=REGISTERED_HYBRID)
    assert found["clean"][2] > 0.9


@pytest.mark.benchmark
@pytest.mark.slow
def test_networks_before_training() -> None:
    found = before_training(LDM64, keys=100)
    for name, (bits, many) in found.items():
        print(f"{name}: bits {100 * bits:.1f} %, named among a million {100 * many:.1f} %")
    assert found["encoder, corrected"] > found["encoder"]
    assert found["trained network, corrected"] > found["trained network"]


@pytest.mark.benchmark
@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_files_of_other_sizes() -> None:
    for size, share in bits_from_sizes(LDM64, (32, 64, 256, 24, 16), keys=100).items():
        print(f"{size} px: {100 * share:.1f} % of the bits")
        assert share > 0.8

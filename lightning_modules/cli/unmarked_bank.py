"""What a run's decoder answers to images without key, kept beside its fingerprint.

A training leaves it; `evaluate.py users bank RUN` makes it again. The bank (`fingerprints.unmarked_bank`) is what
`users create`, `import` and `merge` check keys against, and what `predict` abstains by.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from datamodules.real import load_real_set
from lightning_modules.attacks.codec_table import photographs
from lightning_modules.cli.checkpoint_file import check_checkpoint
from lightning_modules.cli.run_folder import LAST, resolve_checkpoint, run_folder_of
from lightning_modules.common.files import check_file
from lightning_modules.common.shipped import find_trained, program
from lightning_modules.evaluation.fingerprint import load_other
from lightning_modules.fingerprints.decoders.registry import DECODERS
from lightning_modules.fingerprints.fingerprint import FILE_NAME as FINGERPRINT
from lightning_modules.fingerprints.fingerprint import FingerprintError, read_fingerprint
from lightning_modules.fingerprints.settings import DecoderSettings, as_settings, current_settings
from lightning_modules.fingerprints.unmarked_bank import FILE_NAME, SEED, UnmarkedBank, make_bank, read_bank, write_bank
from lightning_modules.latent_fingerprint import LatentFingerprint

FOREIGN = 96
"""Images of each foreign source."""
TILE = 64
"""Largest side of the squares that are cut out of photographs, in pixels; larger images are enlarged ones."""


def leave_bank(run: Path, own_images: int, device: torch.device) -> None:
    """Make the bank of a training that has just ended in the folder `run`; what is in the way is told, and no more.

    There is none without a checkpoint, of a decoder that is not trained, or where no images are asked for.
    """
    if not own_images or not (run / LAST).is_file() or not has_trained_decoder(run / LAST):
        return
    sys.stderr.write(f"decoding images without key into {run / FILE_NAME}\n")
    try:
        build(str(run), own_images, device, replace=True)
    except (ValueError, OSError, RuntimeError) as error:
        sys.stderr.write(f"warning: found no way to make it ({error}); `{program('users')} bank {run}` tries again\n")


def has_trained_decoder(checkpoint: Path) -> bool:
    """Whether the checkpoint of a fingerprint names a decoder that reads with the network that was trained."""
    saved = torch.load(checkpoint, map_location="cpu", weights_only=True, mmap=True)
    decoder = current_settings(saved["hyper_parameters"])["decoder"]
    return bool(DECODERS.load(as_settings(DecoderSettings, decoder).name).needs_network)


def build(
    run: str, own_images: int, device: torch.device | None = None, replace: bool = False
) -> tuple[Path, UnmarkedBank]:
    """Make the bank of a run folder (or of one that ships, by name), write it there, and return its file and it.

    Raises:
        FingerprintError: no run of a fingerprint, or one whose decoder was not trained; a smaller bank than the one
            that is there, unless it is to be replaced.
        OSError: the folder cannot be written to.
    """
    checkpoint = resolve_checkpoint(find_trained(run), "", Path("runs"), None, "the run")
    assert checkpoint is not None
    check_checkpoint(checkpoint)
    file = run_folder_of(checkpoint) / FILE_NAME
    check_file(file, "the bank's path")
    if not replace:
        _refuse_smaller(file, own_images)
    if "fingerprint" not in torch.load(checkpoint, map_location="cpu", weights_only=True, mmap=True):
        raise FingerprintError(f"{checkpoint}: found no fingerprint, expected a run that trained one with train.py")
    module = LatentFingerprint.load_from_checkpoint(checkpoint, map_location="cpu").eval()
    name = module.decoder.name
    if not DECODERS.load(name).needs_network:
        raise FingerprintError(
            f"{checkpoint}: found the decoder {name}, which is not trained, expected amortised, refined or hybrid: the "
            "answers of a search to a thousand images take hours, and no bank of them is made"
        )
    fingerprint = module.fingerprint
    assert fingerprint is not None
    beside = file.with_name(FINGERPRINT)
    if beside.is_file() and read_fingerprint(beside).id != fingerprint.id:
        raise FingerprintError(
            f"{beside}: found another fingerprint than that of {checkpoint}, expected that one: name the run folder "
            "that both belong to"
        )
    device = device or torch.device("cuda" if torch.cuda.is_available() else "cpu")
    module.to(device)
    module.generator.to(device)
    bank = make_bank(
        module.generator,
        fingerprint.to(device),
        module.network,
        module.training_settings.attack,
        own_images,
        foreign_images(module.image_size, module.test_settings.other_generator),
    )
    write_bank(bank, file)
    return file, bank


def _refuse_smaller(file: Path, own_images: int) -> None:
    try:
        there = read_bank(file).own_images
    except FingerprintError:  # none, or a damaged one
        return
    if own_images < there:
        raise FingerprintError(
            f"{file}: found a bank of {there:,} of the generator's own images, expected at least as many for the one "
            f"that replaces it, not {own_images:,}; or remove it first"
        )


def foreign_images(size: int, other: str | None) -> list[tuple[str, Tensor]]:
    """Names and images `(n, 3, size, size)` in [0, 1] of sources that ship: garments, photographs, another generator.

    The other generator is that of the run's test where it has one.
    """
    source = load_other(other or "gan-dcgan", size if other else 32)
    with torch.no_grad():
        foreign = source.synthesize(source.sample_latents(FOREIGN, SEED)).clamp(0.0, 1.0)
    garments = load_real_set("fashion_sample", split="test").pictures
    real = torch.stack([torch.from_numpy(garments[place].copy()).permute(2, 0, 1) / 255.0 for place in range(FOREIGN)])
    return [
        (f"image of {other or 'gan-dcgan'}", _resized(foreign, size)),
        ("real garment", _resized(real, size)),
        ("square of a photograph", _resized(photographs(min(size, TILE))[:FOREIGN], size)),
    ]


def _resized(images: Tensor, size: int) -> Tensor:
    if images.shape[-1] == size:
        return images.float()
    return F.interpolate(images.float(), (size, size), mode="bilinear", antialias=True).clamp(0.0, 1.0)

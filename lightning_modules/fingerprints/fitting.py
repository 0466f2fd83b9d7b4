"""Where a LatentFingerprint gets its fingerprint: fitted to the generator's latents, or from a checkpoint."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import fields
from typing import Any

import torch
from torch import Tensor

from lightning_modules.fingerprints.fingerprint import Fingerprint, make_fingerprint
from lightning_modules.fingerprints.fingerprint_file import FingerprintError
from lightning_modules.fingerprints.layouts import place_key
from lightning_modules.generators.checkpoints.hub import hub_name
from lightning_modules.generators.checkpoints.own_file import content_hash

FIT_BATCH = 256
KEPT_AXES = 2048
"""Axes outside the key that are stored and estimated one by one."""


def sample_bank(generator: Any, hparams: Mapping[str, Any]) -> Tensor:
    """The first `bank` of the latents that the axes are fitted to, `(bank, d)`; empty for none."""
    bank: int = hparams["bank"]
    latents: Tensor = generator.sample_latents(bank, hparams["stream_seed"] + 1) if bank else torch.empty(0)
    return latents


@torch.no_grad()
def fit_fingerprint(generator: Any, hparams: Mapping[str, Any], banked: Tensor) -> Fingerprint:
    """Fit a fingerprint to latents of the generator.

    Args:
        generator: the frozen generator.
        hparams: settings of the LatentFingerprint.
        banked: from `sample_bank`; these latents are not sampled again.

    Returns:
        The fingerprint.
    """

    def natural() -> Iterator[Tensor]:  # anew for each pass over the latents
        return natural_latents(generator, hparams, banked)

    bits, shift, layout = hparams["bits"], hparams["shift"], hparams["layout"]
    channels = getattr(generator, "latent_shape", (1,))[0]
    return make_fingerprint(
        place_key(natural, generator.latent_dim, bits, shift, layout, channels),
        hparams["sigma"],
        shift,
        layout,
        content_hash(generator.state_dict()),
        _reproducible_name(str(hparams["generator"]), generator),
        hparams["latent_prior"],
        str(getattr(generator, "noise", "")),
        KEPT_AXES,
        hparams["centred"],
        getattr(generator, "sampling", {}),
    )


def _reproducible_name(name: str, generator: Any) -> str:
    """The name a generator is loaded by; of one of the hub with the commit, since its main branch may move."""
    pinned = getattr(generator, "origin", {}).get("hub")
    return str(pinned) if pinned is not None and hub_name(name) is not None else name


def natural_latents(generator: Any, hparams: Mapping[str, Any], banked: Tensor) -> Iterator[Tensor]:
    """Latents that the axes are fitted to, in batches; those of the bank are not sampled again."""
    fitted = int(hparams["fit_latents"])
    for start in range(0, fitted, FIT_BATCH):
        stop = min(start + FIT_BATCH, fitted)
        if stop <= len(banked):
            yield banked[start:stop]
        else:
            yield generator.sample_latents(stop - start, hparams["stream_seed"] + 1, start)


def checkpoint_fingerprint(checkpoint: Mapping[str, Any], generator: Any, name: str) -> Fingerprint:
    """The fingerprint that a checkpoint carries, if it belongs to a generator.

    Args:
        checkpoint: what a training of LatentFingerprint left.
        generator: the frozen generator.
        name: of that generator, for people.

    Raises:
        FingerprintError: as `stored_fingerprint`, or a fingerprint of another generator.
    """
    fingerprint = stored_fingerprint(checkpoint)
    found = content_hash(generator.state_dict())
    if fingerprint.generator != found:
        raise FingerprintError(
            f"found the generator {name} with hash {found[:12]}, expected that of the checkpoint's fingerprint, "
            f"{fingerprint.generator[:12]} ({fingerprint.generator_name}); name the generator that the fingerprint "
            "was made for"
        )
    return fingerprint


def stored_fingerprint(checkpoint: Mapping[str, Any]) -> Fingerprint:
    """The fingerprint that a checkpoint carries, whatever its generator.

    Raises:
        FingerprintError: it holds none, or one of another version of this project.
    """
    if "fingerprint" not in checkpoint:
        raise FingerprintError(
            "found a checkpoint without fingerprint, expected one that a training of LatentFingerprint left; name "
            "that run with --ckpt_path"
        )
    stored = checkpoint["fingerprint"]
    if different := {field.name for field in fields(Fingerprint)} ^ set(stored):
        raise FingerprintError(
            f"found a checkpoint of another version of this project (its fingerprint differs in "
            f"{', '.join(sorted(different))}); read it with the version that wrote it, or train again"
        )
    return Fingerprint(**stored)


def axes_outside(generator: Any, hparams: Mapping[str, Any], fingerprint: Fingerprint | None) -> int:
    """Number of axes outside the key that a network estimates, of the fingerprint or of the one to be fitted."""
    bits = hparams["bits"] if fingerprint is None else fingerprint.bits
    if fingerprint is not None:
        copies = int(fingerprint.key_axes.shape[0])
    elif hparams["layout"] == "flat":
        copies = 1
    else:
        copies = 3 if hparams["layout"] == "repeated" else int(generator.latent_shape[0])
    return int(min(generator.latent_dim - bits * copies, KEPT_AXES))

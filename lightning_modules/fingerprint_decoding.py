"""The decoder that a LatentFingerprint's settings ask for, and what its kept answers depend on."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from lightning_modules.attacks import make_attack
from lightning_modules.fingerprints.amortised import KeyNetwork
from lightning_modules.fingerprints.decoders import make_decoder
from lightning_modules.fingerprints.decoding import KeyDecoder
from lightning_modules.fingerprints.fingerprint import Fingerprint
from lightning_modules.fingerprints.losses import make_loss
from lightning_modules.fingerprints.resumable import ResumableDecoder
from lightning_modules.generators import load_generator
from lightning_modules.generators.checkpoints.own_file import content_hash


def build_decoder(
    hparams: Mapping[str, Any],
    options: Mapping[str, Any] | None,
    generator: Any,
    fingerprint: Fingerprint,
    network: KeyNetwork,
    device: torch.device,
) -> KeyDecoder:
    """Make the decoder for test and predict.

    Args:
        hparams: settings of the LatentFingerprint.
        options: how its generator samples, the fingerprint's noise among them.
        generator: the frozen generator; a copy of it is read with where `attribution_noise` is set.
        fingerprint: where keys lie.
        network: the trained network.
        device: where to decode.

    Returns:
        The decoder; one that keeps its answers where `resume_decoding` names a folder.
    """
    if hparams["attribution_noise"] is not None:  # a copy: marked images keep the noise they have
        generator = load_generator(hparams["generator"], hparams["kind"], **(options or {}))
        generator.configure(noise=hparams["attribution_noise"])
    generator.to(device)
    loss = make_loss(**(hparams["loss"] or {"name": "pixels"})).to(device)
    simulated = None if hparams["simulate"] is None else make_attack(hparams["simulate"]).differentiable
    fingerprint = fingerprint.to(device)
    decoder = make_decoder(
        hparams["decoder"], generator, fingerprint, network, loss, hparams["decoder_options"], simulated
    )
    if hparams["resume_decoding"] is None:
        return decoder
    identity = repr(
        [
            fingerprint.generator,
            content_hash(network.state_dict()),
            *(hparams[name] for name in ("decoder", "decoder_options", "loss", "simulate", "attribution_noise")),
            options,  # a StyleGAN2 renders with their noise
            fingerprint.sigma,
            content_hash({"axes": fingerprint.key_axes.flatten(0, 1).cpu()}),
        ]
    )
    return ResumableDecoder(decoder, Path(hparams["resume_decoding"]), identity)

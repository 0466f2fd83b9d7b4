"""The network and the decoder that a LatentFingerprint's settings ask for, and what kept answers depend on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lightning_modules.attacks import make_attack
from lightning_modules.common.distributed import gather_tensors
from lightning_modules.common.weights import read_state_dict
from lightning_modules.fingerprints.decoders.amortised import KeyNetwork
from lightning_modules.fingerprints.decoders.base import KeyDecoder, ResumableDecoder
from lightning_modules.fingerprints.decoders.losses import make_loss
from lightning_modules.fingerprints.decoders.registry import PRESETS, make_decoder
from lightning_modules.fingerprints.fingerprint import Fingerprint
from lightning_modules.fingerprints.fitting import axes_outside
from lightning_modules.generators import load_generator
from lightning_modules.generators.checkpoints.own_file import content_hash


def build_network(hparams: Mapping[str, Any], generator: Any, fingerprint: Fingerprint | None) -> KeyNetwork:
    """Make the network for a fingerprint, or for the one that the settings ask for."""
    bits = hparams["bits"] if fingerprint is None else fingerprint.bits
    # before a checkpoint brings its fingerprint the settings may ask for more bits than there are axes
    axes = max(0, axes_outside(generator, hparams, fingerprint))
    return KeyNetwork(bits, axes, hparams["backbone"], hparams["stem"], hparams["weights"], generator.image_size)


def take_network(network: KeyNetwork, checkpoint: Path) -> None:
    """Begin with the network of another training.

    Args:
        network: what takes its weights.
        checkpoint: file that a training of LatentFingerprint left.

    Raises:
        FileNotFoundError: no such file.
        ValueError: not readable, no network in it, or one of another form: keys, axes or backbone differ.
    """
    if not checkpoint.is_file():
        raise FileNotFoundError(
            f"found no file {checkpoint}, expected a checkpoint of a training to start with; check `start`"
        )
    state = read_state_dict(checkpoint, ("network",))
    stored = {name.removeprefix("network."): value for name, value in state.items() if name.startswith("network.")}
    own = network.state_dict()
    for name, value in own.items():
        found = tuple(stored[name].shape) if name in stored else None
        if found != tuple(value.shape):
            raise ValueError(
                f"{checkpoint}: found {name} of shape {found}, expected {tuple(value.shape)}; begin with a network of "
                "the same bits, axes, backbone and stem, or anew with --model.init_args.start null"
            )
    network.load_state_dict({name: stored[name] for name in own})


def calibrate_network(network: KeyNetwork, judged: Sequence[tuple[Tensor, Tensor, Tensor]]) -> None:
    """Calibrate a network on the images that all processes have judged.

    Args:
        network: the network.
        judged: for each batch of this process logits `(n, m)`, keys `(n, m)` and errors of alpha `(n, k)`.
    """
    logits, keys, errors = (torch.cat(part) for part in zip(*judged, strict=True))
    network.calibrate(*(gather_tensors(part) for part in (logits, keys, errors)))


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
            content_hash(network.state_dict()),
            *(hparams[name] for name in ("decoder", "decoder_options", "loss", "simulate", "attribution_noise")),
            PRESETS[hparams["decoder"]],
            options,  # a StyleGAN2 renders with their noise
            fingerprint.id,
        ]
    )
    return ResumableDecoder(decoder, Path(hparams["resume_decoding"]), identity)

"""The network and the decoder that a LatentFingerprint's settings ask for, and what cached answers depend on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lightning_modules.attacks import make_attack
from lightning_modules.common.distributed import gather_tensors
from lightning_modules.common.weights import read_state_dict
from lightning_modules.fingerprints.decoders.base import CachedDecoder, DecoderParts, KeyDecoder
from lightning_modules.fingerprints.decoders.key_network import KeyNetwork
from lightning_modules.fingerprints.decoders.losses import make_loss
from lightning_modules.fingerprints.decoders.registry import DECODERS, make_decoder
from lightning_modules.fingerprints.fingerprint import Fingerprint
from lightning_modules.fingerprints.fitting import axes_outside
from lightning_modules.fingerprints.settings import DecoderSettings, KeySettings, TrainingSettings
from lightning_modules.generators.checkpoints.own_file import content_hash


def build_network(
    key: KeySettings, training: TrainingSettings, generator: Any, fingerprint: Fingerprint | None
) -> KeyNetwork:
    """Make the network for a fingerprint, or for the one that the settings ask for."""
    bits = key.bits if fingerprint is None else fingerprint.bits
    # before a checkpoint brings its fingerprint the settings may ask for more bits than there are axes
    axes = max(0, axes_outside(generator, key, fingerprint))
    return KeyNetwork(bits, axes, training.backbone, training.stem, training.weights, generator.image_size)


def take_network(network: KeyNetwork, checkpoint: Path) -> None:
    """Begin with the network of another training of LatentFingerprint, which left the checkpoint.

    Raises:
        FileNotFoundError: no such file.
        ValueError: not readable, no network in it, or one of another form: keys, axes or backbone differ.
    """
    if not checkpoint.is_file():
        raise FileNotFoundError(
            f"found no file {checkpoint}, expected a checkpoint of a training to start with; check `training.start`"
        )
    state = read_state_dict(checkpoint, ("network",))
    stored = {name.removeprefix("network."): value for name, value in state.items() if name.startswith("network.")}
    own = network.state_dict()
    for name, value in own.items():
        found = tuple(stored[name].shape) if name in stored else None
        if found != tuple(value.shape):
            raise ValueError(
                f"{checkpoint}: found {name} of shape {found}, expected {tuple(value.shape)}; begin with a network of "
                "the same bits, axes, backbone and stem, or anew with --model.init_args.training.start null"
            )
    network.load_state_dict({name: stored[name] for name in own})


def calibrate_network(network: KeyNetwork, answers: Sequence[tuple[Tensor, Tensor, Tensor]]) -> None:
    """Calibrate a network on the validation images of all processes.

    Each batch of this process gave logits `(n, m)`, keys `(n, m)` and errors of alpha `(n, k)`.
    """
    logits, keys, errors = (torch.cat(part) for part in zip(*answers, strict=True))
    network.calibrate(*(gather_tensors(part) for part in (logits, keys, errors)))


def build_decoder(
    settings: DecoderSettings,
    generator: Any,
    options: Mapping[str, Any] | None,
    fingerprint: Fingerprint,
    network: KeyNetwork,
    device: torch.device,
) -> KeyDecoder:
    """Make the decoder for test and predict; one that caches its answers where `settings.cache` names a folder.

    `options` say how the generator samples. Where the settings name another noise, a copy of the generator reads keys:
    marked images keep theirs.
    """
    if settings.noise is not None:
        generator = deepcopy(generator)
        generator.configure(noise=settings.noise)
    generator.to(device)
    loss = make_loss(**settings.image_loss).to(device)
    simulated = None if settings.simulate is None else make_attack(settings.simulate).differentiable
    parts = DecoderParts(generator, fingerprint.to(device), network, loss, simulated)
    decoder = make_decoder(settings.name, parts, settings.options)
    if settings.cache is None:
        return decoder
    identity = repr(
        [
            content_hash(network.state_dict()),
            replace(settings, cache=None),
            DECODERS.load(settings.name).preset,
            options,  # a StyleGAN2 renders with their noise
            fingerprint.id,
        ]
    )
    return CachedDecoder(decoder, Path(settings.cache), identity)

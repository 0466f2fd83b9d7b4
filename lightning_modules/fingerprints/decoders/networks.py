"""The network that reads keys, as settings ask for it: how it is made, what it begins with, its calibration."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lightning_modules.common.distributed import gather_tensors
from lightning_modules.common.weights import read_state_dict
from lightning_modules.fingerprints.decoders.corrected_network import CorrectedNetwork, EncoderNetwork
from lightning_modules.fingerprints.decoders.key_network import CalibratedNetwork, KeyNetwork
from lightning_modules.fingerprints.fingerprint import Fingerprint
from lightning_modules.fingerprints.fitting import axes_outside
from lightning_modules.fingerprints.settings import ENCODER, KeySettings, TrainingSettings

OF_THE_KEY = {"heads", "alpha_error", "log_temperature"}
"""Parts of networks whose size, or meaning, depends on the key."""


def build_network(
    key: KeySettings, training: TrainingSettings, generator: Any, fingerprint: Fingerprint | None
) -> CalibratedNetwork:
    """Make the network for a fingerprint, or for the one that the settings ask for.

    Raises:
        ValueError: settings that take a generator with an encoder, and another generator; weights for an encoder.
    """
    bits = key.bits if fingerprint is None else fingerprint.bits
    # before a checkpoint brings its fingerprint the settings may ask for more bits than there are axes
    axes = max(0, axes_outside(generator, key, fingerprint))
    by_encoder = training.backbone == ENCODER
    if by_encoder and training.weights != "none":
        raise ValueError(
            f"found training.weights {training.weights} for the backbone {ENCODER}, expected none: its weights are the "
            "generator's; continue another training with training.start"
        )
    if (by_encoder or training.corrections) and not hasattr(generator, "first_stage"):
        asked = f"training.backbone {ENCODER}" if by_encoder else f"training.corrections {training.corrections}"
        raise ValueError(
            f"found {asked} and a generator without an encoder, expected a latent diffusion model; name a network of "
            "timm as the backbone, and no corrections"
        )
    network: CalibratedNetwork
    if by_encoder:
        network = EncoderNetwork(bits, axes, generator)
    else:
        network = KeyNetwork(bits, axes, training.backbone, training.stem, training.weights, generator.image_size)
    if training.corrections:
        network = CorrectedNetwork(network, training.corrections, generator, frozen=training.start is not None)
    if fingerprint is not None:
        network.take_fingerprint(fingerprint, anew=False)
    return network


def take_network(network: CalibratedNetwork, checkpoint: Path) -> str | None:
    """Begin with the network of another training of LatentFingerprint, which left the checkpoint.

    From one for keys of another length or images of another size all but the heads is taken, and these begin anew. A
    network with corrections takes one without them for its first answer, and one without them takes the first answer's.

    Args:
        network: takes the weights.
        checkpoint: a file, or the run folder that holds it.

    Returns:
        What a person should know of what was not taken; None where all was.

    Raises:
        FileNotFoundError: no such file.
        ValueError: not readable, no network in it, or one of another backbone; a network for keys of another length
            where corrections alone are to be trained.
    """
    if checkpoint.is_dir():
        checkpoint = checkpoint / "checkpoints" / "last.ckpt"
    if not checkpoint.is_file():
        raise FileNotFoundError(
            f"found no file {checkpoint}, expected a checkpoint of a training to start with; check `training.start`"
        )
    state = read_state_dict(checkpoint, ("network",))
    stored = {name.removeprefix("network."): value for name, value in state.items() if name.startswith("network.")}
    asked, corrected = network, any(name.startswith("start.") for name in stored)
    if corrected and not isinstance(network, CorrectedNetwork):
        stored = {name.removeprefix("start."): value for name, value in stored.items() if name.startswith("start.")}
    elif isinstance(network, CorrectedNetwork) and not corrected:
        network = network.start  # calibrated, for a first answer has no temperature of its own
        if "log_temperature" in stored and "heads.weight" in stored:
            for name in ("heads.weight", "heads.bias"):
                stored[name] = stored[name].clone()
                stored[name][: network.bits] /= stored["log_temperature"].exp()
            stored["log_temperature"] = torch.zeros_like(stored["log_temperature"])
    own, told = network.state_dict(), None
    body = {name: value for name, value in own.items() if not {*name.split(".")} & OF_THE_KEY}
    _require_same(checkpoint, stored, body)
    heads = [name for name in own if name == "alpha_error" or name.startswith("heads.")]
    if all(name in stored for name in heads) and any(stored[name].shape != own[name].shape for name in heads):
        told = (
            f"{checkpoint}: found a network for keys of another length or images of another size: its backbone is "
            f"taken, and what reads the {network.bits} bits begins anew"
        )
        if isinstance(asked, CorrectedNetwork) and asked.frozen:
            raise ValueError(
                f"{checkpoint}: found a network for keys of another length or images of another size, expected one "
                f"that reads these {network.bits} bits, since with training.start the corrections alone are trained; "
                "train it first, with training.corrections 0"
            )
        own = body
    _require_same(checkpoint, stored, {name: value for name, value in own.items() if name not in body})
    network.load_state_dict({**network.state_dict(), **{name: stored[name] for name in own}})
    network.begun = told is None
    return told


def _require_same(checkpoint: Path, stored: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> None:
    """Refuse, by a ValueError, stored tensors of other shapes than one's own, or too few."""
    for name, value in own.items():
        found = tuple(stored[name].shape) if name in stored else None
        if found != tuple(value.shape):
            shape = "no tensor" if found is None else f"a tensor of shape {found}"
            raise ValueError(
                f"{checkpoint}: found {shape} for {name}, expected {tuple(value.shape)}; begin with a network of the "
                "same backbone, stem and corrections, or anew with --model.init_args.training.start null"
            )


def calibrate_network(network: CalibratedNetwork, answers: Sequence[tuple[Tensor, Tensor, Tensor]]) -> None:
    """Calibrate on all processes' validation batches: logits `(n, m)`, keys `(n, m)` and errors of alpha `(n, k)`."""
    logits, keys, errors = (torch.cat(part) for part in zip(*answers, strict=True))
    network.calibrate(*(gather_tensors(part) for part in (logits, keys, errors)))

"""The network that reads keys: how it is made for a fingerprint, what it begins with, its calibration."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lightning_modules.common.distributed import gather_tensors
from lightning_modules.common.weights import read_state_dict
from lightning_modules.fingerprints.fingerprint import Fingerprint
from lightning_modules.fingerprints.fitting import axes_outside
from lightning_modules.fingerprints.settings import KeySettings, TrainingSettings
from lightning_modules.networks import SourceNetwork


class KeyNetwork(nn.Module):
    """An image to the logits of its key and to its latent's coordinates outside the key.

    Knowing where the image lies among all images is what separates a key from an unusual garment or face; the second
    head makes the features carry it, and gives an inversion its start. Both heads see several levels of the backbone
    with their positions: what a key changes is a faint pattern in place, which pooling over the image would blur away.

    Args:
        bits: length m of a key.
        axes: number k of coordinates to estimate, those of largest deviation first.
        backbone: a timm network.
        stem, weights: see `networks.SourceNetwork`.
        image_size: height and width of the images in pixels.
        levels: stages of the backbone that the heads see, as timm counts them.
        grid: levels of more positions than this on a side are averaged down to it.
    """

    log_temperature: Tensor
    alpha_error: Tensor

    def __init__(
        self,
        bits: int,
        axes: int,
        backbone: str = "resnet18",
        stem: str = "patch",
        weights: str = "none",
        image_size: int = 32,
        levels: Sequence[int] = (1, 2, 3),
        grid: int = 8,
    ) -> None:
        super().__init__()
        self.bits, self.axes, self.levels, self.grid = bits, axes, list(levels), grid
        self.backbone: Any = SourceNetwork(backbone, 0, stem, weights).backbone
        self.backbone.prune_intermediate_layers(self.levels, prune_head=True)
        with torch.no_grad():
            width = self.eval().features(torch.zeros(1, 3, image_size, image_size)).shape[1]
        self.train()
        self.heads = nn.Linear(width, bits + axes)
        self.register_buffer("log_temperature", torch.zeros(()))
        self.register_buffer("alpha_error", torch.ones(axes))

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Map images `(n, 3, H, W)` in [0, 1] to key logits `(n, m)` and alpha in standard deviations `(n, k)`.

        The temperature acts in evaluation mode alone, so that calibrating between epochs leaves the training as it is.
        """
        output = self.heads(self.features(images))
        logits = output[:, : self.bits]
        return logits if self.training else logits / self.log_temperature.exp(), output[:, self.bits :]

    def features(self, images: Tensor) -> Tensor:
        """All levels of images `(n, 3, H, W)` in [0, 1], position by position, `(n, f)`."""
        maps = self.backbone.forward_intermediates(images * 2.0 - 1.0, indices=self.levels, intermediates_only=True)
        return torch.cat([self._shrunk(level).flatten(1) for level in maps], dim=1)

    def _shrunk(self, level: Tensor) -> Tensor:
        return F.adaptive_avg_pool2d(level, self.grid) if level.shape[-1] > self.grid else level

    def calibrate(self, logits: Tensor, keys: Tensor, alpha_error: Tensor) -> None:
        """Set the temperature that makes logits log odds (Guo et al. 2017), and how far alpha is to be trusted.

        Args:
            logits: what `forward` gave in evaluation mode for images it was not trained on, `(n, m)`.
            keys: the keys of those images, bool `(n, m)`.
            alpha_error: its alpha less the true one, in standard deviations, `(n, k)`.
        """
        # of the logits without the last temperature: changes of it would add up while a network has learned nothing
        temperature = fit_temperature(logits * self.log_temperature.exp(), keys)
        self.log_temperature.fill_(math.log(temperature))
        self.alpha_error.copy_(alpha_error.square().mean(dim=0).clamp_min(1e-4))


def fit_temperature(logits: Tensor, keys: Tensor) -> float:
    """The temperature of least cross-entropy, by golden-section search in its logarithm over [1/20, 20]."""
    low, high = torch.log(torch.tensor([1.0 / 20.0, 20.0], dtype=torch.float64)).tolist()
    values, truth = logits.detach().double(), keys.double()

    def entropy(log_temperature: float) -> float:
        scaled = values * float(torch.exp(torch.tensor(-log_temperature, dtype=torch.float64)))
        return float(F.binary_cross_entropy_with_logits(scaled, truth))

    golden = (5.0**0.5 - 1.0) / 2.0
    for _ in range(40):
        a, b = high - golden * (high - low), low + golden * (high - low)
        low, high = (low, b) if entropy(a) < entropy(b) else (a, high)
    return float(torch.exp(torch.tensor((low + high) / 2.0)))


def build_network(
    key: KeySettings, training: TrainingSettings, generator: Any, fingerprint: Fingerprint | None
) -> KeyNetwork:
    """Make the network for a fingerprint, or for the one that the settings ask for."""
    bits = key.bits if fingerprint is None else fingerprint.bits
    # before a checkpoint brings its fingerprint the settings may ask for more bits than there are axes
    axes = max(0, axes_outside(generator, key, fingerprint))
    return KeyNetwork(bits, axes, training.backbone, training.stem, training.weights, generator.image_size)


def take_network(network: KeyNetwork, checkpoint: Path) -> str | None:
    """Begin with the network of another training of LatentFingerprint, which left the checkpoint.

    From one for keys of another length or images of another size the backbone is taken, and the heads begin anew.

    Args:
        network: takes the weights.
        checkpoint: a file, or the run folder that holds it.

    Returns:
        What a person should know of what was not taken; None where all was.

    Raises:
        FileNotFoundError: no such file.
        ValueError: not readable, no network in it, or one of another backbone.
    """
    if checkpoint.is_dir():
        checkpoint = checkpoint / "checkpoints" / "last.ckpt"
    if not checkpoint.is_file():
        raise FileNotFoundError(
            f"found no file {checkpoint}, expected a checkpoint of a training to start with; check `training.start`"
        )
    state = read_state_dict(checkpoint, ("network",))
    stored = {name.removeprefix("network."): value for name, value in state.items() if name.startswith("network.")}
    own, told = network.state_dict(), None
    heads = [name for name in own if name == "alpha_error" or name.startswith("heads.")]
    if all(name in stored for name in heads) and any(stored[name].shape != own[name].shape for name in heads):
        told = (
            f"{checkpoint}: found a network for keys of another length or images of another size: its backbone is "
            f"taken, and what reads the {network.bits} bits begins anew"
        )
        own = {name: value for name, value in own.items() if name.startswith("backbone.")}
    for name, value in own.items():
        found = tuple(stored[name].shape) if name in stored else None
        if found != tuple(value.shape):
            raise ValueError(
                f"{checkpoint}: found {name} of shape {found}, expected {tuple(value.shape)}; begin with a network of "
                "the same backbone and stem, or anew with --model.init_args.training.start null"
            )
    network.load_state_dict({**network.state_dict(), **{name: stored[name] for name in own}})
    return told


def calibrate_network(network: KeyNetwork, answers: Sequence[tuple[Tensor, Tensor, Tensor]]) -> None:
    """Calibrate on all processes' validation batches: logits `(n, m)`, keys `(n, m)` and errors of alpha `(n, k)`."""
    logits, keys, errors = (torch.cat(part) for part in zip(*answers, strict=True))
    network.calibrate(*(gather_tensors(part) for part in (logits, keys, errors)))

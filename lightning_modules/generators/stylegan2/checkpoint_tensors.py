"""Taking tensors out of a foreign state dict one by one, so that none is missing, misshapen or forgotten."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from lightning_modules.common.random_streams import standard_normal_latents
from lightning_modules.generators.checkpoints.stored import CheckpointError, first_of
from lightning_modules.generators.stylegan2.generator import StyleGAN2Generator
from lightning_modules.generators.stylegan2.layers import DEFAULT_FILTER

SHOWN = 6
MEAN_SAMPLES = 10_000
NO_MAPS = "noise maps: not in the file; noise fixed(SEED), random and none need none, buffers is refused"


class ForeignTensors:
    """The state dict of another implementation, and which of its tensors have been used.

    What is missing or does not fit is a CheckpointError that names the file and the tensor.
    """

    def __init__(self, tensors: Mapping[str, Tensor], file: str) -> None:
        self.tensors = tensors
        self.file = file
        self.used: set[str] = set()

    def take(self, name: str, shape: Iterable[int] | None = None) -> Tensor:
        """Return a tensor as float32, of any shape or of the one wanted; only ones are added or dropped for it."""
        if name not in self.tensors:
            raise CheckpointError(
                f"{self.file}: found no tensor {name!r} among {len(self.tensors)}; the file is incomplete or holds "
                "another architecture"
            )
        self.used.add(name)
        tensor = self.tensors[name].detach().float()
        if shape is None:
            return tensor
        wanted = tuple(shape)
        if [s for s in tensor.shape if s != 1] != [s for s in wanted if s != 1]:
            raise CheckpointError(
                f"{self.file}: found shape {tuple(tensor.shape)} for tensor {name!r}, expected {wanted}; the file is "
                "damaged or holds another architecture"
            )
        return tensor.reshape(wanted).contiguous()

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of a tensor, which is thereby not used."""
        if name not in self.tensors:
            self.take(name)
        return tuple(self.tensors[name].shape)

    def count(self, template: str) -> int:
        """Number of the layers 0, 1, 2 ...: one more than the largest index that stands for the template's `{}`."""
        before, after = map(re.escape, template.split("{}"))
        indices = [int(match[1]) for name in self.tensors if (match := re.fullmatch(rf"{before}(\d+){after}", name))]
        if not indices:
            raise CheckpointError(
                f"{self.file}: found no tensor named like {template.format(0)!r}; its tensors are "
                f"{first_of(sorted(self.tensors), SHOWN)}"
            )
        return max(indices) + 1

    def holds_any(self, names: Iterable[str]) -> bool:
        """Whether the file holds one of these tensors at least."""
        return any(name in self.tensors for name in names)

    def resample_filter(self, suffix: str) -> list[float]:
        """Taps of the one filter that all tensors ending in `suffix` hold, as one- or two-dimensional kernels.

        Kernels that differ are refused, and one that is no outer product of symmetric taps.
        """
        names = [name for name in self.tensors if name.endswith(suffix)]
        taps: Tensor | None = None
        for name in names:
            kernel = self.take(name)
            line = kernel if kernel.ndim == 1 else kernel.sum(dim=0)
            line = line / line.sum()
            plane = kernel / kernel.sum()
            separable = kernel.ndim == 1 or torch.allclose(torch.outer(line, line), plane, atol=1e-6)
            if not separable or not torch.allclose(line, line.flip(0), atol=1e-6):
                raise CheckpointError(f"{self.file}: filter {name!r} is no product of symmetric taps; found {kernel}")
            if taps is not None and (taps.shape != line.shape or not torch.allclose(taps, line, atol=1e-6)):
                raise CheckpointError(f"{self.file}: filter {name!r} differs from {names[0]!r}; expected one filter")
            taps = line
        if taps is None:
            return list(DEFAULT_FILTER)
        return [round(float(tap) / float(taps[0]), 6) for tap in taps]

    def check_all_used(self) -> None:
        """Refuse tensors that nothing has taken."""
        if left := sorted(set(self.tensors) - self.used):
            found = f"found {len(left)} tensors that do not belong to this architecture: {first_of(left, SHOWN)}"
            raise CheckpointError(f"{self.file}: {found}")


def measured_mean(generator: StyleGAN2Generator) -> tuple[Tensor, str]:
    """Mean `(w_dim,)` of w for truncation where the file has none, and the line of the report on it."""
    with torch.no_grad():
        z = standard_normal_latents(MEAN_SAMPLES, generator.z_dim, seed=0)
        mean = generator.mapping(z).double().mean(dim=0).float()
    return mean, f"mean for truncation: not in the file, measured on {MEAN_SAMPLES} latents of seed 0"


def build_skeleton(arguments: dict[str, Any], file: str) -> StyleGAN2Generator:
    """The generator that tensors of a file describe, with weights of its own."""
    try:
        return StyleGAN2Generator(**arguments).freeze()
    except ValueError as error:
        raise CheckpointError(f"{file}: the tensors describe no StyleGAN2: {error}") from error

"""Strict renaming of tensors: every one is used or named, every shape is checked."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lightning_modules.generators.checkpoints.stored import CheckpointError


def keep(tensor: Tensor) -> list[Tensor]:
    """Pass a tensor on as it is."""
    return [tensor]


def to_linear(tensor: Tensor) -> list[Tensor]:
    """Drop the kernel size of a convolution of size 1: `(out, in, 1, ...)` to `(out, in)`; vectors stay."""
    return [tensor.flatten(1).contiguous() if tensor.ndim > 2 else tensor]


@dataclass(frozen=True)
class Rename:
    """How one tensor of a checkpoint becomes one or more tensors of ours."""

    source: str  # name in the checkpoint
    targets: tuple[str, ...]  # names in our network
    convert: Callable[[Tensor], list[Tensor]] = keep  # to the tensors of `targets`, in their order


def both(source: str, target: str, convert: Callable[[Tensor], list[Tensor]] = keep) -> Iterator[Rename]:
    """Rename the weight and the bias of one layer; `to_linear` where a 1x1 convolution is a linear layer here."""
    for part in ("weight", "bias"):
        yield Rename(f"{source}.{part}", (f"{target}.{part}",), convert)


def rename(
    tensors: Mapping[str, Tensor], renames: list[Rename], network: nn.Module, name: Callable[[str], str] = str
) -> dict[str, Tensor]:
    """Fill a network's state dict, in its own names, from a checkpoint's tensors; all must be there and fit.

    Args:
        tensors: the checkpoint's.
        renames: one for each tensor to use; together they must give the whole state dict.
        network: the network, on any device (`meta` will do); shapes are compared with its own.
        name: how a `source` is written in this checkpoint.
    """
    expected = {key: value.shape for key, value in network.state_dict().items()}
    found: dict[str, Tensor] = {}
    for one in renames:
        source = name(one.source)
        if source not in tensors:
            raise CheckpointError(
                f"found no tensor {source!r}, expected one from the configuration; the file is incomplete or "
                "belongs to another configuration"
            )
        try:
            pieces = one.convert(tensors[source])
        except RuntimeError as error:
            shape = tuple(tensors[source].shape)
            raise CheckpointError(f"found tensor {source!r} of shape {shape}, which does not fit: {error}") from error
        for target, piece in zip(one.targets, pieces, strict=True):
            if target not in expected:
                raise CheckpointError(
                    f"found tensor {source!r}, which the network of this configuration has no place for ({target})"
                )
            if piece.shape != expected[target]:
                raise CheckpointError(
                    f"found tensor {source!r} of shape {tuple(tensors[source].shape)}, expected one that gives "
                    f"{target} of shape {tuple(expected[target])}; the configuration is not this checkpoint's"
                )
            found[target] = piece.detach().to(torch.float32) if piece.is_floating_point() else piece.detach()
    lacking = sorted(set(expected) - set(found))
    if lacking:
        raise CheckpointError(f"found nothing for {lacking[0]} and {len(lacking) - 1} other tensors of the network")
    return found

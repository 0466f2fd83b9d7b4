"""Files of weights as people have them: tensors alone, under names without what wrappers put before them."""

from __future__ import annotations

import hashlib
import logging
from collections import defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

WRAPPERS = frozenset({"module", "_orig_mod"})
"""Attributes under which DataParallel, DDP and AveragedModel (`module`) and `torch.compile` keep what they wrap."""
AVERAGES = "n_averaged"
"""The counter that `torch.optim.swa_utils.AveragedModel` keeps beside `module`."""
NESTED = ("state_dict", "model")
"""Keys under which training programs put a state dict, in the order they are looked for."""
_log = logging.getLogger(__name__)


def read_state_dict(
    path: Path, beginnings: Collection[str] | None = None, nested: Sequence[str] = NESTED
) -> dict[str, Tensor]:
    """Read a state dict from safetensors or from a PyTorch file (also below `state_dict` or `model`).

    Prefixes that all tensors share are taken off, and logged as a warning, which a terminal shows.

    Args:
        path: a file that is there.
        beginnings: see `without_prefixes`.
        nested: keys under which the state dict may lie; the first that is there counts.

    Raises:
        ValueError: truncated, no state dict, or a file that holds more than tensors; begins with the path.
    """
    try:
        with path.open("rb") as file:
            start = file.read(9)
        safe = start[8:] == b"{" or path.suffix == ".safetensors"
        content = load_file(path) if safe else torch.load(path, map_location="cpu", weights_only=True)
    except OSError:
        raise
    except Exception as error:  # bytes of another kind fail in torch's reader in many ways
        reason = str(error).partition("\n")[0] or type(error).__name__
        if "weights_only" in reason:  # torch advises to run what is in it
            reason = "a file of another kind, or with objects that are no tensors"
        raise ValueError(
            f"{path}: not readable as tensors alone ({reason}); "
            "save it again as safetensors or with torch.save(model.state_dict(), ...)"
        ) from error
    for key in nested:
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
    if not isinstance(content, Mapping) or not all(isinstance(value, Tensor) for value in content.values()):
        raise ValueError(f"{path}: holds {type(content).__name__}, expected a mapping of names to tensors")
    tensors, lines = without_prefixes(content, beginnings)
    for line in lines:
        _log.warning("%s: %s", path, line)
    return tensors


def without_prefixes(
    tensors: Mapping[str, Tensor], beginnings: Collection[str] | None = None
) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """Take off the prefixes that all tensors share, and wrappers around a part that all tensors of the part share.

    Args:
        tensors: a state dict.
        beginnings: first components of the names that the reader knows, which stay; None where the networks that it
            knows have no component that all tensors share.

    Returns:
        The state dict under the names without prefixes, and a line for a report on each prefix.
    """
    rest, lines = dict(tensors), []
    if AVERAGES in rest and len(rest) > 1 and all(name.startswith("module.") for name in rest if name != AVERAGES):
        del rest[AVERAGES]
        lines.append(f"left aside, bookkeeping of an average: {AVERAGES}")
    paths = {name: name.split(".") for name in rest}
    shared = _shared(list(paths.values()), beginnings)
    if shared:
        lines.append(f"prefix {'.'.join(shared)}. of all {len(rest)} tensors: taken off")
    paths = {name: path[len(shared) :] for name, path in paths.items()}
    children: dict[tuple[str, ...], set[str]] = defaultdict(set)
    for path in paths.values():
        for depth, part in enumerate(path):
            children[tuple(path[:depth])].add(part)
    dropped: dict[tuple[str, str], int] = defaultdict(int)
    found: dict[str, Tensor] = {}
    for name, path in paths.items():
        kept: list[str] = []
        for depth, part in enumerate(path):
            alone = depth < len(path) - 1 and len(children[tuple(path[:depth])]) == 1
            if alone and part in WRAPPERS:
                dropped[".".join(kept), part] += 1
            else:
                kept.append(part)
        found[".".join(kept)] = rest[name]
    for (inside, wrapper), number in dropped.items():
        lines.append(f"prefix {wrapper}. of all {number} tensors of {inside}.*: taken off")
    return found, tuple(lines)


def _shared(paths: list[list[str]], beginnings: Collection[str] | None) -> list[str]:
    """First components that all names have in common, up to one that is known; a tensor's own name stays."""
    shared: list[str] = []
    for parts in zip(*(path[:-1] for path in paths), strict=False):
        first = parts[0]
        known = beginnings is not None and first in beginnings
        if known or any(part != first for part in parts):
            break
        shared.append(first)
    return shared


def misfits(own: Mapping[str, Tensor], state: Mapping[str, Tensor], optional: Callable[[str], bool]) -> str:
    """What keeps a file's state dict from filling a network's own, in words; empty where it fits.

    A network does without the tensors that are `optional` by their name.
    """
    missing = [name for name in own if name not in state and not optional(name)]
    unexpected = [name for name in state if name not in own]
    misshapen = [
        f"{name} {tuple(value.shape)} (expected {tuple(own[name].shape)})"
        for name, value in state.items()
        if name in own and own[name].shape != value.shape
    ]
    if not (missing or unexpected or misshapen):
        return ""
    return (
        f"missing {missing[:3]} ({len(missing)}), unexpected {unexpected[:3]} ({len(unexpected)}), wrong shape "
        f"{misshapen[:3]} ({len(misshapen)})"
    )


def content_hash(tensors: dict[str, Tensor]) -> str:
    """SHA-256 over the names, types, shapes and values of tensors, whatever their order or place in a file."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        value = tensors[name].detach().cpu().contiguous()
        digest.update(f"{name}\0{value.dtype}\0{tuple(value.shape)}\0".encode())
        digest.update(value.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()

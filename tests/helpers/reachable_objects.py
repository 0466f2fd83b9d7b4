"""Everything that can be reached from an object, to tell whether it holds a secret."""

from __future__ import annotations

import types
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lightning_modules.fingerprints.users.keys import key_to_text, pack_keys


def reachable(root: Any) -> Iterator[tuple[str, Any]]:
    """Objects behind attributes, containers, closures, defaults and bound methods, each once, with the way to it."""
    seen: dict[int, Any] = {}  # keeps what it has seen, so that no number is given twice
    waiting = [("", root)]
    while waiting:
        way, found = waiting.pop()
        if id(found) in seen or isinstance(found, type | types.ModuleType):
            continue
        seen[id(found)] = found
        yield way, found
        waiting += [(f"{way}{step}", value) for step, value in _parts(found)]


def _parts(found: Any) -> list[tuple[str, Any]]:
    if isinstance(found, Tensor | np.ndarray | str | bytes | int | float):
        return []
    if isinstance(found, dict):
        pairs = list(found.items())
        return [(f"[{key!r}]", value) for key, value in pairs] + [(".keys", key) for key, _ in pairs]
    if isinstance(found, list | tuple | set | frozenset):
        return [(f"[{number}]", value) for number, value in enumerate(found)]
    parts = [(f".{name}", value) for name, value in getattr(found, "__dict__", {}).items()]
    slots = (name for kind in type(found).__mro__ for name in getattr(kind, "__slots__", ()))
    parts += [(f".{name}", getattr(found, name)) for name in slots if hasattr(found, name)]
    if isinstance(found, types.MethodType):
        parts += [(".__self__", found.__self__), (".__func__", found.__func__)]
    if isinstance(found, types.FunctionType):
        cells = [cell for cell in found.__closure__ or () if cell != types.CellType()]
        parts += [(f"<{number}>", cell.cell_contents) for number, cell in enumerate(cells)]
        parts += [(".__defaults__", found.__defaults__), (".__kwdefaults__", found.__kwdefaults__)]
    if hasattr(found, "func") and hasattr(found, "keywords"):  # functools.partial
        parts += [(".func", found.func), (".args", found.args), (".keywords", found.keywords)]
    return parts


def holds_keys(found: Any, keys: Tensor) -> bool:
    """Whether an object is, or holds in its numbers, keys `(n, m)`: all of them in any form, or any one as bits."""
    if isinstance(found, str):
        return found in {key_to_text(key) for key in keys} | {"".join(map(str, key.int().tolist())) for key in keys}
    if isinstance(found, bytes) or (isinstance(found, np.ndarray) and found.dtype == np.uint8):
        packed = found if isinstance(found, bytes) else found.tobytes()
        if any(key.tobytes() in packed for key in pack_keys(keys)):
            return True
    if isinstance(found, np.ndarray) and found.dtype.kind in "biuf":
        found = torch.from_numpy(np.ascontiguousarray(found))
    if not isinstance(found, Tensor) or not found.numel() or found.is_complex():
        return False
    if found.untyped_storage().data_ptr() == keys.untyped_storage().data_ptr():
        return True
    numbers = found.detach().double()
    if numbers.numel() == keys.numel():
        signs = [numbers.flatten() > level for level in (0.0, 0.5)]
        if any(torch.equal(sign, side) for sign in signs for side in (keys.flatten(), ~keys.flatten())):
            return True
    if numbers.ndim == 0 or numbers.shape[-1] != keys.shape[1]:
        return False
    rows = numbers.reshape(-1, keys.shape[1])
    forms = (keys.double(), 2.0 * keys.double() - 1.0)
    return any(bool((rows[:, None] == form).all(dim=2).any()) for form in forms)

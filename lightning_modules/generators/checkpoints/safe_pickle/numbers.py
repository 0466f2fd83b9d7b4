"""Numbers in a pickle: tensors over storages, numpy arrays, their types; each checked against its bytes."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from typing import Any

import numpy as np
from torch import Tensor

from lightning_modules.generators.checkpoints.safe_pickle.machine import Damaged, PickledGlobal, shown

NUMBER = re.compile(r"[<>=|]?([biufc]\d{1,2}|\?)")
OVERLAPPING_ELEMENTS = 2**24
"""A tensor that names the same number many times may have this many elements, or as many as its storage."""


class Unreadable(ValueError):
    """Something that is no tensor and no plain data; the message is a noun phrase that says what."""


class NumpyType:
    """A numpy number type under construction."""

    def __init__(self, code: str) -> None:
        if not NUMBER.fullmatch(code):
            raise Unreadable(f"numpy dtype {code!r}")
        self.dtype = np.dtype(code)

    def set_order(self, state: Any) -> None:
        """Set the byte order from the state that numpy pickles."""
        if state[1] not in ("<", ">", "|", "="):
            raise Damaged(f"a numpy type has the byte order {shown(state[1])}")
        self.dtype = self.dtype.newbyteorder(state[1])


def strided(storage: Any, offset: int, size: tuple[int, ...], stride: tuple[int, ...]) -> Tensor:
    """View a storage as a tensor.

    Args:
        storage: one-dimensional tensor of all its elements.
        offset: first element.
        size: shape.
        stride: steps in elements.

    Raises:
        Unreadable: the view reaches outside the storage.
        Damaged: arguments of the wrong kind.
    """
    if not isinstance(storage, Tensor) or storage.dim() != 1:
        raise Damaged("a tensor is made of something that is no storage")
    numbers = (offset, *size, *stride)
    if len(size) != len(stride) or not all(type(number) is int and number >= 0 for number in numbers):
        raise Damaged(f"a tensor has offset {shown(offset)}, size {shown(size)} and stride {shown(stride)}")
    elements = math.prod(size)
    last = offset + sum((length - 1) * step for length, step in zip(size, stride, strict=True)) if elements else offset
    if (elements and last >= storage.numel()) or elements > max(storage.numel(), OVERLAPPING_ELEMENTS):
        raise Unreadable(
            f"a tensor of size {tuple(size)} and stride {tuple(stride)} from element {offset} of a storage of "
            f"{storage.numel()} elements, which it reaches outside of"
        )
    return storage.as_strided(size, stride, offset)


def _rebuild_tensor(storage: Any, offset: int, size: Any, stride: Any, *_: Any) -> Tensor:
    return strided(storage, offset, tuple(size), tuple(stride))


def _rebuild_parameter(data: Any, *_: Any) -> Any:
    if not isinstance(data, Tensor):
        raise Damaged("a parameter is made of something that is no tensor")
    return data


def rebuild_from_type(function: Any, _type: Any, arguments: Any, *_: Any) -> Any:
    """A tensor of a subclass, or with attributes: the tensor alone."""
    inner = TENSOR_CONSTRUCTORS.get(str(function)) if isinstance(function, PickledGlobal) else None
    if inner is None:
        raise Unreadable(f"a tensor made by {shown(function)}")
    return inner(*arguments)


def fill_array(array: np.ndarray[Any, Any], state: Any) -> None:
    """Give an array of `empty_array` its type, shape and numbers, from the state that numpy pickles.

    Raises:
        Unreadable: another number of bytes than the shape needs.
        Damaged: a state of the wrong kind.
    """
    _, shape, number, column_order, content = state
    content = content.encode("latin1") if isinstance(content, str) else content
    _check_array(content, number, shape)
    # numpy's own method, given a number type and exactly as many bytes as its shape needs
    array.__setstate__((1, tuple(shape), number.dtype, bool(column_order), bytes(content)))  # type: ignore[arg-type]


def empty_array(*_: Any) -> np.ndarray[Any, Any]:
    """An array to be filled."""
    return np.empty(0, dtype=np.uint8)


def _check_array(content: Any, number: Any, shape: Any) -> None:
    if not isinstance(number, NumpyType) or not isinstance(content, (bytes, bytearray)):
        raise Damaged("a numpy value has no number type or no bytes")
    if not all(type(length) is int and length >= 0 for length in shape):
        raise Damaged(f"a numpy array has the shape {shown(shape)}")
    if len(content) != math.prod(shape) * number.dtype.itemsize:
        raise Unreadable(f"a numpy value of shape {tuple(shape)} and type {number.dtype} in {len(content)} bytes")


def scalar(number: Any, content: Any) -> Any:
    """A numpy number as python's own."""
    content = content.encode("latin1") if isinstance(content, str) else content
    _check_array(content, number, ())
    return np.frombuffer(content, dtype=number.dtype)[0].item()


def from_buffer(content: Any, number: Any, shape: Any, order: str = "C", axes: Any = None) -> np.ndarray[Any, Any]:
    """An array from its numbers in memory order."""
    _check_array(content, number, shape)
    flat = np.frombuffer(content, dtype=number.dtype)
    array = flat.reshape(shape, order="F" if order == "F" else "C")
    return (array if axes is None else array.transpose(axes)).copy(order="K")


TENSOR_CONSTRUCTORS: dict[str, Callable[..., Any]] = {
    "torch._utils._rebuild_tensor": _rebuild_tensor,
    "torch._utils._rebuild_tensor_v2": _rebuild_tensor,
    "torch._utils._rebuild_parameter": _rebuild_parameter,
    "torch._utils._rebuild_parameter_with_state": _rebuild_parameter,
}
"""Functions that give tensors, by the name the file knows them under."""

"""The globals a checkpoint may mention: what tensors, arrays and containers are made of, and inert records.

`Unreadable` is raised for what the file describes wrongly, `CorruptPickleError` for what no pickler writes.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sized
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lightning_modules.generators.checkpoints.safe_pickle.machine import (
    CorruptPickleError,
    PickledGlobal,
    PickledObject,
    as_key,
    shown,
)
from lightning_modules.generators.checkpoints.stored import CheckpointError

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
            raise CorruptPickleError(f"a numpy type has the byte order {shown(state[1])}")
        self.dtype = self.dtype.newbyteorder(state[1])


def strided(storage: Any, offset: int, size: tuple[int, ...], stride: tuple[int, ...]) -> Tensor:
    """View a storage, the one-dimensional tensor of all its elements, as a tensor; it must not reach outside of it."""
    if not isinstance(storage, Tensor) or storage.dim() != 1:
        raise CorruptPickleError("a tensor is made of something that is no storage")
    numbers = (offset, *size, *stride)
    if len(size) != len(stride) or not all(type(number) is int and number >= 0 for number in numbers):
        raise CorruptPickleError(f"a tensor has offset {shown(offset)}, size {shown(size)} and stride {shown(stride)}")
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
        raise CorruptPickleError("a parameter is made of something that is no tensor")
    return data


def rebuild_from_type(function: Any, _type: Any, arguments: Any, *_: Any) -> Any:
    """A tensor of a subclass, or with attributes: the tensor alone."""
    inner = TENSOR_CONSTRUCTORS.get(str(function)) if isinstance(function, PickledGlobal) else None
    if inner is None:
        raise Unreadable(f"a tensor made by {shown(function)}")
    return inner(*arguments)


def fill_array(array: np.ndarray[Any, Any], state: Any) -> None:
    """Give an array of `empty_array` its type, shape and numbers, from the state that numpy pickles."""
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
        raise CorruptPickleError("a numpy value has no number type or no bytes")
    if not all(type(length) is int and length >= 0 for length in shape):
        raise CorruptPickleError(f"a numpy array has the shape {shown(shape)}")
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


STORAGES = {
    "torch.FloatStorage": torch.float32,
    "torch.DoubleStorage": torch.float64,
    "torch.HalfStorage": torch.float16,
    "torch.BFloat16Storage": torch.bfloat16,
    "torch.LongStorage": torch.int64,
    "torch.IntStorage": torch.int32,
    "torch.ShortStorage": torch.int16,
    "torch.CharStorage": torch.int8,
    "torch.ByteStorage": torch.uint8,
    "torch.BoolStorage": torch.bool,
    "torch.ComplexFloatStorage": torch.complex64,
    "torch.ComplexDoubleStorage": torch.complex128,
    "torch.storage.UntypedStorage": torch.uint8,
}
"""Element type of each kind of storage; `torch.cuda.` ones are read as these."""

NUMBER_TYPES = (*STORAGES.values(), torch.float8_e4m3fn, torch.float8_e5m2)
DTYPES = {str(dtype): dtype for dtype in NUMBER_TYPES}
NAMES_ONLY = frozenset(
    {f"builtins.{name}" for name in ("dict", "list", "set", "frozenset", "tuple", "int", "float", "bool", "object")}
    | {"argparse.Namespace", "pathlib.PosixPath", "pathlib.WindowsPath", "pathlib.PurePosixPath", "numpy.ndarray"}
    | {"torch.Tensor", "torch.nn.parameter.Parameter", "torch._tensor.Tensor", "typing.Any"}
    | {"dnnlib.tflib.network.Network", "tfutil.Network"}
)
"""Globals that are kept as their names, or as records of what the file says of their objects."""

NAMES_ONLY_WITHIN = (
    *("pytorch_lightning.", "lightning.pytorch.", "lightning_fabric.", "omegaconf."),
    *("torch.nn.modules.", "torch.nn.parallel."),
)
FAMILIES = {
    "pg_modules.": "as in pickles of Projected GAN and StyleGAN-XL, which have no reader here",
    "dnnlib.tflib.": "as in pickles of NVIDIA's TensorFlow releases; convert those with legacy.py of "
    "stylegan2-ada-pytorch",
    "training.networks": "as in pickles that depend on their program's code",
    "ldm.": "as in checkpoints that hold objects of CompVis' program",
}
"""What mentions globals of these modules, for the refusal."""
MODULES_OF_OLD = {"__builtin__": "builtins", "copy_reg": "copyreg", "numpy._core": "numpy.core"}


class CheckpointGlobals:
    """The vocabulary of checkpoint files.

    Args:
        file: name for messages.
        size: bytes of the file; what is built from copies may not exceed it many times.
        read_nested: reads the bytes of a file within the file.
    """

    def __init__(self, file: str, size: int, read_nested: Callable[[bytes], Any]) -> None:
        self._file = file
        self._budget = 4 * size + 1_000_000
        self._constructors: dict[str, Callable[..., Any]] = CONSTRUCTORS | {
            "torch.storage._load_from_bytes": read_nested
        }

    def resolve(self, name: PickledGlobal) -> Any:
        """The value that stands for a global: an element type, or its name in today's spelling."""
        module = name.module
        for old, new in MODULES_OF_OLD.items():
            if module == old or module.startswith(f"{old}."):
                module = new + module[len(old) :]
        module = re.sub(r"^torch\.cuda$", "torch", module) if name.name.endswith("Storage") else module
        today = PickledGlobal(module, name.name)
        text = str(today)
        if text in DTYPES:
            return DTYPES[text]
        plain = "." not in name.name
        within = any(text.startswith(prefix) for prefix in NAMES_ONLY_WITHIN)
        if plain and (text in STORAGES or text in self._constructors or text in NAMES_ONLY or within):
            return today
        family = next((f" ({what})" for module, what in FAMILIES.items() if text.startswith(module)), "")
        raise CheckpointError(
            f"{self._file}: found the global '{name}'{family}, which is neither a tensor nor plain data; nothing in "
            "the file was run. If you do not trust where it comes from, open it with nothing else; if you do, save the "
            "generator's state dict alone where it was made, and read that"
        )

    def construct(self, target: Any, arguments: tuple[Any, ...]) -> Any:
        """The value of a global called with arguments."""
        if not isinstance(target, PickledGlobal):
            raise CorruptPickleError(f"a {type(target).__name__} is called")
        constructor = self._constructors.get(str(target))
        if constructor is None:
            if str(target) in STORAGES:
                raise CorruptPickleError(f"{target} is called")
            return PickledObject(str(target), arguments)
        sized = [argument for argument in arguments if isinstance(argument, Sized) and not isinstance(argument, Tensor)]
        self._budget -= sum(map(len, sized))
        if self._budget < 0:
            raise CheckpointError(f"{self._file}: found contents that grow far beyond the size of the file; refused")
        try:
            return constructor(*arguments)
        except Unreadable as error:
            raise self._refusal(error) from error

    def _refusal(self, error: Unreadable) -> CheckpointError:
        return CheckpointError(f"{self._file}: found {error}; expected tensors and plain data, so the file is refused")

    def fill(self, target: Any, state: Any) -> None:
        """Set the state of a numpy array or type; there is no other target."""
        if isinstance(target, NumpyType):
            target.set_order(state)
        elif isinstance(target, np.ndarray):
            try:
                fill_array(target, state)
            except Unreadable as error:
                raise self._refusal(error) from error
        else:
            raise CorruptPickleError(f"attributes are set on a {type(target).__name__}")


def _reconstruct_persistent(meta: Any, *_: Any) -> PickledObject:
    # the key module_src holds source code, which is dropped here
    name, state = meta.get("class_name"), meta.get("state")
    if not isinstance(name, str):
        raise CorruptPickleError("an object has no class name")
    return PickledObject(name, state={} if state is None else state)


def _reconstruct_object(kind: Any, *_: Any) -> Any:
    if not isinstance(kind, PickledGlobal):
        raise CorruptPickleError("an object is made of something that is no class")
    return {} if str(kind) in ("dnnlib.util.EasyDict", "builtins.dict") else PickledObject(str(kind))


def _device(kind: Any, index: Any = None) -> str:
    if not isinstance(kind, str) or not (index is None or isinstance(index, int)):
        raise CorruptPickleError("a device is named by something that is no text")
    return kind if index is None else f"{kind}:{index}"


def _dictionary(*arguments: Any) -> dict[Any, Any]:
    if not arguments:
        return {}
    return _pairs(arguments[0])


def _pairs(pairs: Any) -> dict[Any, Any]:
    items = pairs.items() if isinstance(pairs, dict) else pairs
    return {as_key(key): value for key, value in items}


def _set(members: Any = ()) -> set[Any]:
    return set(map(as_key, members))


def _encode(text: str, encoding: str = "latin1", *_: Any) -> bytes:
    if encoding not in ("latin1", "latin-1"):
        raise Unreadable(f"bytes in the encoding {shown(encoding)}")
    return text.encode("latin1")


def _bytes(*arguments: Any) -> bytes:
    if arguments and not isinstance(arguments[0], (str, bytes)):
        raise CorruptPickleError("bytes are made of something else")
    return _encode(*arguments) if arguments and isinstance(arguments[0], str) else b"".join(arguments[:1])


CONSTRUCTORS: dict[str, Callable[..., Any]] = TENSOR_CONSTRUCTORS | {
    "torch._tensor._rebuild_from_type_v2": rebuild_from_type,
    "torch.Size": lambda size=(): tuple(size),
    "torch.device": _device,
    "torch_utils.persistence._reconstruct_persistent_obj": _reconstruct_persistent,
    "copyreg._reconstructor": _reconstruct_object,
    "dnnlib.util.EasyDict": lambda *_: {},
    "collections.OrderedDict": _dictionary,
    "collections.defaultdict": lambda _factory=None, pairs=(): _pairs(pairs),
    "collections.Counter": _dictionary,
    "builtins.dict": _dictionary,
    "builtins.list": lambda members=(): list(members),
    "builtins.set": _set,
    "builtins.frozenset": lambda members=(): frozenset(_set(members)),
    "builtins.complex": lambda real, imaginary: complex(real, imaginary),
    "builtins.bytes": _bytes,
    "builtins.bytearray": lambda *arguments: bytearray(_bytes(*arguments)),
    "_codecs.encode": _encode,
    "numpy.dtype": lambda code, *_: NumpyType(code),
    "numpy.core.multiarray.scalar": scalar,
    "numpy.core.multiarray._reconstruct": empty_array,
    "numpy.core.numeric._frombuffer": from_buffer,
}
"""Every function that a file can have called, all of this package, by the name the file knows it under."""

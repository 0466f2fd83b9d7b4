"""The globals a checkpoint may mention: what tensors and containers are made of, and inert records."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sized
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lightning_modules.generators.checkpoints.pickle_machine import Damaged, PickledGlobal, PickledObject, as_key
from lightning_modules.generators.checkpoints.stored import CheckpointError

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
)
"""Globals that are kept as their names, or as records of what the file says of their objects."""

NAMES_ONLY_WITHIN = ("pytorch_lightning.", "lightning.pytorch.", "lightning_fabric.", "omegaconf.", "torch.nn.modules.")
MODULES_OF_OLD = {"__builtin__": "builtins", "copy_reg": "copyreg", "numpy._core": "numpy.core"}
NUMBER = re.compile(r"[<>=|]?([biufc]\d{1,2}|\?)")
OVERLAPPING_ELEMENTS = 2**24


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
            raise Damaged(f"a numpy type has the byte order {state[1]!r}")
        self.dtype = self.dtype.newbyteorder(state[1])


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
        """Return the value that stands for a global: an element type, or its name in today's spelling.

        Raises:
            CheckpointError: a global that is not known; names it.
        """
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
        raise CheckpointError(
            f"{self._file}: found the global '{name}', which is neither a tensor nor plain data; nothing in "
            "the file was run. If you do not trust where it comes from, open it with nothing else; if you do, save the "
            "generator's state dict alone where it was made, and read that"
        )

    def construct(self, target: Any, arguments: tuple[Any, ...]) -> Any:
        """Return the value of a global called with arguments.

        Raises:
            CheckpointError: no global, or arguments that describe nothing readable.
            Damaged: the same.
        """
        if not isinstance(target, PickledGlobal):
            raise Damaged(f"a {type(target).__name__} is called")
        constructor = self._constructors.get(str(target))
        if constructor is None:
            if str(target) in STORAGES:
                raise Damaged(f"{target} is called")
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
        """Set the state of a numpy array or type.

        Raises:
            CheckpointError: a state that does not fit.
            Damaged: any other target, or a state of the wrong kind.
        """
        if isinstance(target, NumpyType):
            target.set_order(state)
        elif isinstance(target, np.ndarray):
            _, shape, number, column_order, content = state
            if not isinstance(number, NumpyType):
                raise Damaged("a numpy array has no number type")
            content = content.encode("latin1") if isinstance(content, str) else content
            try:
                _check_array(content, number, shape)
            except Unreadable as error:
                raise self._refusal(error) from error
            # numpy's own method, given a number type and exactly as many bytes as its shape needs
            target.__setstate__((1, tuple(shape), number.dtype, bool(column_order), bytes(content)))  # type: ignore[arg-type]
        else:
            raise Damaged(f"attributes are set on a {type(target).__name__}")


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
        raise Damaged(f"a tensor has offset {offset}, size {size} and stride {stride}")
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


def _rebuild_from_type(function: Any, _type: Any, arguments: Any, *_: Any) -> Any:
    inner = TENSOR_CONSTRUCTORS.get(str(function))
    if inner is None:
        raise Unreadable(f"a tensor made by '{function}'")
    return inner(*arguments)


def _reconstruct_persistent(meta: Any, *_: Any) -> PickledObject:
    # the key module_src holds source code, which is dropped here
    state = meta.get("state")
    return PickledObject(str(meta.get("class_name")), state={} if state is None else state)


def _reconstruct_object(kind: Any, *_: Any) -> Any:
    return {} if str(kind) in ("dnnlib.util.EasyDict", "builtins.dict") else PickledObject(str(kind))


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
        raise Unreadable(f"bytes in the encoding {encoding!r}")
    return text.encode("latin1")


def _bytes(*arguments: Any) -> bytes:
    if arguments and not isinstance(arguments[0], (str, bytes)):
        raise Damaged("bytes are made of something else")
    return _encode(*arguments) if arguments and isinstance(arguments[0], str) else b"".join(arguments[:1])


def _empty_array(*_: Any) -> np.ndarray[Any, Any]:
    return np.empty(0, dtype=np.uint8)


def _check_array(content: Any, number: Any, shape: Any) -> None:
    if not isinstance(number, NumpyType) or not isinstance(content, (bytes, bytearray)):
        raise Damaged("a numpy value has no number type or no bytes")
    if not all(type(length) is int and length >= 0 for length in shape):
        raise Damaged(f"a numpy array has the shape {shape}")
    if len(content) != math.prod(shape) * number.dtype.itemsize:
        raise Unreadable(f"a numpy value of shape {tuple(shape)} and type {number.dtype} in {len(content)} bytes")


def _scalar(number: Any, content: Any) -> Any:
    content = content.encode("latin1") if isinstance(content, str) else content
    _check_array(content, number, ())
    return np.frombuffer(content, dtype=number.dtype)[0].item()


def _from_buffer(content: Any, number: Any, shape: Any, order: str = "C", axes: Any = None) -> np.ndarray[Any, Any]:
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
CONSTRUCTORS: dict[str, Callable[..., Any]] = TENSOR_CONSTRUCTORS | {
    "torch._tensor._rebuild_from_type_v2": _rebuild_from_type,
    "torch.Size": lambda size=(): tuple(size),
    "torch.device": lambda *parts: ":".join(map(str, parts)),
    "torch.serialization._get_layout": lambda name: str(name),
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
    "numpy.core.multiarray.scalar": _scalar,
    "numpy.core.multiarray._reconstruct": _empty_array,
    "numpy.core.numeric._frombuffer": _from_buffer,
}
"""Every function that a file can have called, all of this package, by the name the file knows it under."""

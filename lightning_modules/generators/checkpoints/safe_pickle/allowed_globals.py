"""The globals a checkpoint may mention: what tensors and containers are made of, and inert records."""

from __future__ import annotations

import re
from collections.abc import Callable, Sized
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lightning_modules.generators.checkpoints.safe_pickle.machine import (
    Damaged,
    PickledGlobal,
    PickledObject,
    as_key,
    shown,
)
from lightning_modules.generators.checkpoints.safe_pickle.numbers import (
    TENSOR_CONSTRUCTORS,
    NumpyType,
    Unreadable,
    empty_array,
    fill_array,
    from_buffer,
    rebuild_from_type,
    scalar,
)
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
        family = next((f" ({what})" for module, what in FAMILIES.items() if text.startswith(module)), "")
        raise CheckpointError(
            f"{self._file}: found the global '{name}'{family}, which is neither a tensor nor plain data; nothing in "
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
            try:
                fill_array(target, state)
            except Unreadable as error:
                raise self._refusal(error) from error
        else:
            raise Damaged(f"attributes are set on a {type(target).__name__}")


def _reconstruct_persistent(meta: Any, *_: Any) -> PickledObject:
    # the key module_src holds source code, which is dropped here
    name, state = meta.get("class_name"), meta.get("state")
    if not isinstance(name, str):
        raise Damaged("an object has no class name")
    return PickledObject(name, state={} if state is None else state)


def _reconstruct_object(kind: Any, *_: Any) -> Any:
    if not isinstance(kind, PickledGlobal):
        raise Damaged("an object is made of something that is no class")
    return {} if str(kind) in ("dnnlib.util.EasyDict", "builtins.dict") else PickledObject(str(kind))


def _device(kind: Any, index: Any = None) -> str:
    if not isinstance(kind, str) or not (index is None or isinstance(index, int)):
        raise Damaged("a device is named by something that is no text")
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
        raise Damaged("bytes are made of something else")
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

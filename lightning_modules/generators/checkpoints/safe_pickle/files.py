"""Reading the tensors of a torch file or a pickle without running anything that is in it.

What is truncated, damaged or refused ends in a `CheckpointError` that says which.
"""

from __future__ import annotations

import io
import mmap
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lightning_modules.generators.checkpoints.safe_pickle.globals import STORAGES, CheckpointGlobals
from lightning_modules.generators.checkpoints.safe_pickle.machine import (
    CorruptPickleError,
    PickledGlobal,
    PickledObject,
    PickleMachine,
    Readable,
    shown,
)
from lightning_modules.generators.checkpoints.stored import CheckpointError, file_type, refuse_other_types

LEGACY_MAGIC = 0x1950A86A20F9469CFC6C  # what torch.save wrote first before files were zip archives
LEGACY_PROTOCOL = 1001
MAX_FILES_WITHIN = 2


def read_zip(content: mmap.mmap, path: Path) -> Any:
    """Read a zip file of torch: a pickle, and a record for each storage; tensors are views of the mapped `content`."""
    file = path.name
    try:
        with zipfile.ZipFile(path) as archive:
            records = {info.filename: info for info in archive.infolist()}
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError, struct.error) as error:
        raise CheckpointError(
            f"{file}: found a torch file without its table of contents: it is truncated; fetch it again and compare "
            "its size or hash"
        ) from error
    roots = [name[: -len("data.pkl")] for name in records if name.endswith("/data.pkl")]
    if any(name.endswith("/constants.pkl") for name in records):
        raise CheckpointError(
            f"{file}: found a TorchScript archive, which holds code; give the state dict it came from"
        )
    if len(roots) != 1:
        raise CheckpointError(f"{file}: found a zip archive without data.pkl, expected one that torch.save wrote")

    def span(name: str) -> tuple[int, int]:
        info = records.get(name)
        if info is None:
            raise CheckpointError(f"{file}: found no record {name}, though a tensor refers to it; fetch the file again")
        header = content[info.header_offset : info.header_offset + 30]
        begin = (
            info.header_offset + 30 + int.from_bytes(header[26:28], "little") + int.from_bytes(header[28:30], "little")
        )
        if info.compress_type != zipfile.ZIP_STORED or info.flag_bits & 1 or begin + info.file_size > len(content):
            raise CheckpointError(f"{file}: found the record {name} compressed or outside the file; fetch it again")
        return begin, info.file_size

    order = f"{roots[0]}byteorder"
    if order in records and content[span(order)[0] : sum(span(order))] != b"little":
        raise CheckpointError(
            f"{file}: found big-endian tensors, expected little-endian; save it again on such a machine"
        )
    storages: dict[str, Tensor] = {}

    def load_persistent(saved: Any) -> Tensor:
        dtype, key, count = _storage_type(saved, file)
        if key not in storages:
            begin, size = span(f"{roots[0]}data/{key}")
            if size != count * dtype.itemsize:
                raise CheckpointError(
                    f"{file}: found {size} bytes for a storage of {count} elements of {dtype}, expected "
                    f"{count * dtype.itemsize}; the file is damaged, fetch it again"
                )
            storages[key] = _view(content, begin, count, dtype)
        return _same(storages[key], dtype, count, file)

    begin, size = span(f"{roots[0]}data.pkl")
    return _machine(io.BytesIO(content[begin : begin + size]), load_persistent, file, len(content), 0).run()


def read_stream(stream: Readable, file: str, size: int, depth: int = 0) -> Any:
    """Read a bare pickle, or the format of torch before 1.6: several pickles, then the bytes of the storages.

    The stream is of `size` bytes and lies within `depth` other files.
    """
    first = _machine(stream, _no_storage(file), file, size, depth).run()
    if type(first) is not int or first != LEGACY_MAGIC:
        return first
    protocol = _machine(stream, _no_storage(file), file, size, depth).run()
    if protocol != LEGACY_PROTOCOL:
        raise CheckpointError(f"{file}: found protocol {protocol} of torch's older format, expected {LEGACY_PROTOCOL}")
    _machine(stream, _no_storage(file), file, size, depth).run()  # byte order and sizes of the machine that wrote it
    storages: dict[str, Tensor] = {}
    promised = 0

    def load_persistent(saved: Any) -> Tensor:
        nonlocal promised
        dtype, key, count = _storage_type(saved, file)
        if key not in storages:
            promised += count * dtype.itemsize
            if promised > size:
                raise CheckpointError(
                    f"{file}: found storages of {promised} bytes and more in a file of {size}: it is truncated or "
                    "damaged; fetch it again and compare its size or hash"
                )
            storages[key] = torch.zeros(count, dtype=dtype)
        return _same(storages[key], dtype, count, file)

    content = _machine(stream, load_persistent, file, size, depth).run()
    keys = _machine(stream, _no_storage(file), file, size, depth).run()
    named = isinstance(keys, list) and all(isinstance(key, (str, int)) for key in keys)
    if not named or sorted(map(str, keys)) != sorted(storages):
        raise CheckpointError(
            f"{file}: found a list of storages that are not those of its tensors; fetch the file again"
        )
    for key in map(str, keys):
        storage = storages[key]
        count = int.from_bytes(stream.read(8), "little")
        data = stream.read(storage.nbytes)
        if count != storage.numel() or len(data) != storage.nbytes:
            raise CheckpointError(
                f"{file}: found {len(data)} bytes for {count} elements of storage {key}, expected {storage.nbytes} "
                f"bytes for {storage.numel()}: it is truncated or damaged; fetch it again and compare its size or hash"
            )
        if data:
            storage.copy_(torch.frombuffer(bytearray(data), dtype=storage.dtype))
    return content


def _machine(
    stream: Readable, load_persistent: Callable[[Any], Any], file: str, size: int, depth: int
) -> PickleMachine:
    def read_nested(content: Any, *_: Any) -> Any:
        if not isinstance(content, bytes) or depth >= MAX_FILES_WITHIN:
            raise CorruptPickleError("a file within the file is no bytes, or holds further files")
        return read_stream(io.BytesIO(content), file, len(content), depth + 1)

    return PickleMachine(stream, CheckpointGlobals(file, size, read_nested), load_persistent, file)


def _no_storage(file: str) -> Callable[[Any], Any]:
    def refuse(saved: Any) -> Any:
        raise CheckpointError(f"{file}: found a reference {shown(saved)} to data outside the pickle; fetch it again")

    return refuse


def _same(storage: Tensor, dtype: torch.dtype, count: int, file: str) -> Tensor:
    if storage.dtype != dtype or storage.numel() != count:
        raise CheckpointError(f"{file}: found one storage described in two ways; the file is damaged, fetch it again")
    return storage


def _view(content: mmap.mmap, begin: int, count: int, dtype: torch.dtype) -> Tensor:
    if count == 0:
        return torch.zeros(0, dtype=dtype)
    if begin % dtype.itemsize:  # a tensor must lie at a multiple of its element size
        return torch.frombuffer(bytearray(content[begin : begin + count * dtype.itemsize]), dtype=dtype)
    return torch.frombuffer(content, dtype=dtype, count=count, offset=begin)


def _storage_type(saved: Any, file: str) -> tuple[torch.dtype, str, int]:
    """Element type, key and element count of a persistent id."""
    if not isinstance(saved, tuple) or len(saved) not in (5, 6) or saved[0] not in ("storage", b"storage"):
        raise CheckpointError(f"{file}: found a reference {shown(saved)}, expected one to a storage of numbers")
    kind, key, _, count = saved[1:5]
    if len(saved) == 6 and saved[5] is not None:
        raise CheckpointError(
            f"{file}: found a view of a storage, as torch 0.3 wrote; save it again with today's torch"
        )
    known = isinstance(kind, PickledGlobal) and str(kind) in STORAGES
    if not known or not isinstance(key, (str, int)) or type(count) is not int or count < 0:
        raise CheckpointError(
            f"{file}: found a storage {shown(key)} of {shown(count)} elements of {shown(kind)}, expected a name, a "
            "count and a known number type"
        )
    return STORAGES[str(kind)], str(key), count


MAX_DEPTH = 64
MAX_TENSORS = 100_000


def read_tensor_pickle(path: Path) -> Any:
    """Read a torch file (zip, or the older stream) or a bare pickle as tensors and plain containers, mostly a dict.

    Nothing is imported or executed on the word of the file. Parameters become tensors, subclasses of dict become dicts,
    objects of known harmless classes become `PickledObject` records, names of such classes `PickledGlobal`. Tensors of
    a zip file or a pickle may be views of the file, read when they are used.

    Raises:
        CheckpointError: no such file, no such format, a truncated or damaged file, a tensor outside its storage, or a
            global that is not data (named).
    """
    refuse_other_types(path)
    with path.open("rb") as file:
        # a private mapping: pages are read when they are used, and no write reaches the file
        content = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
    start = content[:512]
    if start.startswith(b"PK\x03\x04"):
        return read_zip(content, path)
    if start[257:262] == b"ustar":
        raise CheckpointError(f"{path.name}: found a tar archive; unpack it, or save the state dict with today's torch")
    kind = file_type(path)
    other = f"{path.name}: found a {kind} file, expected a checkpoint (.pt, .pkl, .ckpt or .safetensors)"
    if kind not in ("pickle", "text", "safetensors"):
        raise CheckpointError(other)
    try:
        return read_stream(content, path.name, len(content))
    except CheckpointError as error:
        if kind == "text" and "truncated or damaged" in str(error):
            raise CheckpointError(other) from error
        raise


def module_tensors(record: PickledObject) -> dict[str, Tensor]:
    """Parameters and buffers of a pickled module and of all modules in it, under the names its state dict would have.

    Raises:
        CheckpointError: modules that hold themselves, or more tensors than a network has.
    """
    tensors: dict[str, Tensor] = {}
    visits = 0

    def walk(module: Any, prefix: str, depth: int) -> None:
        nonlocal visits
        visits += 1
        state = module.state if isinstance(module, PickledObject) else None
        if state is None:
            return
        if depth > MAX_DEPTH or not isinstance(state, dict):
            raise CheckpointError(f"found {prefix or record.class_name}: modules nested without end, or without state")
        for group in ("_parameters", "_buffers"):
            for name, value in _items(state, group):
                if isinstance(value, Tensor):
                    tensors[f"{prefix}{name}"] = value
        if max(len(tensors), visits) > MAX_TENSORS:
            raise CheckpointError(
                f"found more than {MAX_TENSORS} tensors or modules in {record.class_name}, expected a network"
            )
        for name, child in _items(state, "_modules"):
            walk(child, f"{prefix}{name}.", depth + 1)

    walk(record, "", 0)
    return tensors


def _items(state: dict[Any, Any], group: str) -> list[tuple[Any, Any]]:
    members = state.get(group, {})
    if not isinstance(members, dict):
        raise CheckpointError(f"found {group} that is a {type(members).__name__}, expected a dict of names")
    return list(members.items())

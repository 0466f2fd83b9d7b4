"""What one file says about itself: its encoding, its decoded pixels' content ids, or why it cannot be used."""

from __future__ import annotations

import gc
import hashlib
import multiprocessing
import os
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import dataclass
from functools import cache
from io import BytesIO
from pathlib import Path

import pandas as pd
from PIL import Image, JpegImagePlugin

from datamodules.images.image_io import ImageFileError, decode_image, path_text, text_path
from datamodules.images.pixel_path import PixelPath
from datamodules.images.problems import counted
from lightning_modules.common.child_processes import die_with_parent
from lightning_modules.common.content_ids import content_id
from lightning_modules.common.progress import Progress

_CHROMA = {0: "4:4:4", 1: "4:2:2", 2: "4:2:0"}


@dataclass
class FileFacts:
    """Everything the index keeps about a file; strings are empty where they do not apply.

    Attributes:
        file_hash: BLAKE2b-128 of the file's bytes, hex.
        problem: Name of a ``Kind`` of problem, or "".
        reason: What was found, for the problem.
        extension: Lower-case suffix.
        format: Pillow's name of the format, such as PNG or JPEG; WEBP lossy or WEBP lossless.
        jpeg_tables: Quality whose quantisation tables libjpeg would write, else a hash of the tables.
        jpeg_chroma: Chroma subsampling, and whether the JPEG is progressive.
        mode: Pillow's mode of the file: RGB, L, P, RGBA, ...
        size: ``<width>x<height>`` as decoded, the orientation tag applied.
        metadata: Names of the metadata present: text chunks, EXIF, ICC profile, resolution, ...
        content: Content id of the decoded pixels.
        final: Content id after the pixel path.
        height: Height after the pixel path, in pixels.
        width: Width after the pixel path, in pixels.
    """

    file_hash: str = ""
    problem: str = ""
    reason: str = ""
    extension: str = ""
    format: str = ""
    jpeg_tables: str = ""
    jpeg_chroma: str = ""
    mode: str = ""
    size: str = ""
    metadata: str = ""
    content: str = ""
    final: str = ""
    height: int = 0
    width: int = 0


def hash_bytes(data: bytes) -> str:
    """BLAKE2b-128 of a file's bytes, hex."""
    return hashlib.blake2b(data, digest_size=16).hexdigest()


def _tables(image: JpegImagePlugin.JpegImageFile) -> tuple[tuple[int, ...], ...]:
    return tuple(tuple(image.quantization[key]) for key in sorted(image.quantization))


@cache
def _libjpeg_tables() -> dict[tuple[tuple[int, ...], ...], int]:
    tables = {}
    for quality in range(1, 101):
        for mode in ("RGB", "L"):
            buffer = BytesIO()
            Image.new(mode, (8, 8)).save(buffer, format="JPEG", quality=quality)
            tables[_tables(JpegImagePlugin.JpegImageFile(BytesIO(buffer.getvalue())))] = quality
    return tables


def _name_tables(tables: tuple[tuple[int, ...], ...]) -> str:
    quality = _libjpeg_tables().get(tables)
    return f"quality {quality}" if quality else f"custom {hash_bytes(repr(tables).encode())[:8]}"


def _webp_kind(data: bytes) -> str:
    position = 12  # RIFF header; then chunks of 4 bytes of name, 4 of length, payload padded to even
    while position + 8 <= len(data):
        name, length = data[position : position + 4], int.from_bytes(data[position + 4 : position + 8], "little")
        if name in (b"VP8 ", b"VP8L"):
            return "WEBP lossless" if name == b"VP8L" else "WEBP lossy"
        position += 8 + length + length % 2
    return "WEBP"


def _read_header(file: BytesIO, facts: FileFacts) -> None:
    with Image.open(file) as image:
        facts.format, facts.mode = image.format or "", image.mode
        facts.metadata = " ".join(sorted(str(name) for name in image.info))
        if isinstance(image, JpegImagePlugin.JpegImageFile):
            facts.format = "JPEG"
            facts.jpeg_tables = _name_tables(_tables(image))
            chroma = _CHROMA.get(JpegImagePlugin.get_sampling(image), "other" if image.mode != "L" else "grey")
            facts.jpeg_chroma = chroma + (" progressive" if image.info.get("progressive") else "")
    if facts.format == "WEBP":
        facts.format = _webp_kind(file.getvalue())


def read_facts(path: Path, pixel_path: PixelPath, known: frozenset[str] | set[str] = frozenset()) -> FileFacts:
    """Read a file once, decode it completely and describe it; one that cannot be used has ``problem`` and ``reason``.

    A file whose hash is ``known`` is not decoded: only ``file_hash`` and ``extension`` are filled in.
    """
    facts = FileFacts(extension=path_text(path.suffix.lower()))
    try:
        data = path.read_bytes()
    except OSError as error:
        broken = f"a link to {path_text(path.readlink())}, which is not there" if path.is_symlink() else ""
        facts.problem, facts.reason = "UNREADABLE", broken or str(error.strerror or error)
        return facts
    facts.file_hash = hash_bytes(data)
    if facts.file_hash in known:
        return facts
    file = BytesIO(data)
    file.name = str(path)
    try:
        pixels = decode_image(file, pixel_path.max_pixels)
    except ImageFileError as error:
        size = f"{counted(len(data), 'byte')}, " if error.kind == "UNREADABLE" else ""
        facts.problem, facts.reason = error.kind, size + error.reason
        return facts
    _read_header(file, facts)
    facts.size = f"{pixels.shape[1]}x{pixels.shape[0]}"
    if not pixel_path.fits(pixels):
        facts.problem = "CROP_TOO_LARGE"
        facts.reason = f"{facts.size} (width x height), center_crop is {pixel_path.center_crop}"
        return facts
    facts.content = content_id(pixels)
    final = pixel_path(pixels)
    facts.final = facts.content if pixel_path.keeps_pixels else content_id(final)
    facts.height, facts.width = int(final.shape[0]), int(final.shape[1])
    return facts


_DESCRIBED = ("format", "mode", "size")
_MOST = 50  # values of an attribute that a description names


def describe_files(facts: pd.DataFrame) -> dict[str, dict[str, int]]:
    """Formats, modes and sizes of files and how many have each: ``{"format": {"PNG": 12}, "mode": ..., "size": ...}``.

    ``facts`` has columns of ``FileFacts``. The 50 most frequent values are named; ``other`` counts the rest.
    """
    described = {}
    for name in _DESCRIBED:
        counts = facts[name].value_counts().sort_index(kind="stable").sort_values(ascending=False, kind="stable")
        described[name] = {str(value): int(count) for value, count in counts.head(_MOST).items()}
        if len(counts) > _MOST:
            described[name]["other"] = int(counts.iloc[_MOST:].sum())
    return described


def unlike(found: dict[str, dict[str, int]], trained: dict[str, dict[str, int]]) -> list[str]:
    """A line for each attribute in which files have values that no training file had, both as of ``describe_files``.

    ``trained`` is empty where a checkpoint does not say.
    """
    lines = []
    for name, known in trained.items():
        if "other" in known:
            continue  # too many values to name: nothing stands out
        new = {value: count for value, count in found.get(name, {}).items() if value not in known}
        if new:
            total = sum(found[name].values())
            lines.append(
                f"{sum(new.values()):,} of {counted(total, 'file')} have a {name} that no training file had: "
                f"{_named(new)}, trained on {_named(known)}; what is said of them may owe to that"
            )
    return lines


def _named(values: dict[str, int]) -> str:
    shown = [f"{value} ({count:,})" for value, count in list(values.items())[:5]]
    return ", ".join(shown) + (f" and {len(values) - 5} more" if len(values) > 5 else "")


_PARALLEL_FROM = 1_000  # below, starting workers costs more than it saves
_TASK = 32  # files that a worker takes at once
_AHEAD = 4  # tasks of each worker that wait for it


@dataclass(frozen=True)
class _Scan:
    """What a worker needs to describe files."""

    base: Path
    pixel_path: PixelPath
    known: set[str]

    def __call__(self, paths: list[str]) -> list[FileFacts]:
        return [read_facts(self.base / text_path(path), self.pixel_path, self.known) for path in paths]


_scan_of_worker: _Scan | None = None


def _start_worker(scan: _Scan, parent: int) -> None:
    global _scan_of_worker
    die_with_parent(parent)
    gc.freeze()  # what the parent has made is left alone, so that its pages stay shared
    _scan_of_worker = scan


def _scan_task(paths: list[str]) -> list[FileFacts]:
    assert _scan_of_worker is not None  # set before the first task
    return _scan_of_worker(paths)


def scan_files(
    base: Path, paths: list[str], pixel_path: PixelPath, known: set[str], workers: int | None
) -> Iterator[list[FileFacts]]:
    """Facts of each file, in order (``read_facts``), some at a time, as they are found.

    Paths are as ``path_text`` writes them, relative ones from ``base``. ``workers`` processes decode, which end with
    this one, however it ends; None for one per core where there is enough to do. What is found is to be kept as it
    comes: whoever stops has lost the rest alone.
    """
    if workers is None:
        workers = min(16, len(os.sched_getaffinity(0))) if hasattr(os, "sched_getaffinity") else (os.cpu_count() or 1)
    scan = _Scan(base, pixel_path, known)
    tasks = [paths[start : start + _TASK] for start in range(0, len(paths), _TASK)]
    with Progress("indexing images", len(paths)) as progress:
        parallel = len(paths) >= _PARALLEL_FROM and workers > 1
        for facts in _in_parallel(scan, tasks, workers) if parallel else map(scan, tasks):
            yield facts
            progress.update(len(facts))


def _in_parallel(scan: _Scan, tasks: list[list[str]], workers: int) -> Iterator[list[FileFacts]]:
    """Results of the tasks in their order; no more are handed out than the workers keep busy with."""
    context = multiprocessing.get_context("fork" if "fork" in multiprocessing.get_all_start_methods() else None)
    with ProcessPoolExecutor(workers, context, _start_worker, (scan, os.getpid())) as pool:
        waiting: deque[Future[list[FileFacts]]] = deque()
        try:
            for task in tasks:
                waiting.append(pool.submit(_scan_task, task))
                if len(waiting) > _AHEAD * workers:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()

"""Writing a generator's images as PNG files: the same bytes on any number of processes, resumed where it stopped.

What a convolution gives for one image can differ in the last bits with the number of images computed beside it and
with the number of threads. So samples are always computed in the same blocks, aligned to multiples of `block_size`,
each wholly by one process on one thread; a block is computed whole even where only a part of it is wanted.
"""

from __future__ import annotations

import io
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from lightning_modules.common.files import remove_partials, write_bytes
from lightning_modules.common.images import to_uint8
from lightning_modules.common.progress import Progress
from lightning_modules.generators.bundled.load import load_bundled
from lightning_modules.generators.protocol import Generator

BLOCK = 32
"""Images computed together, up to 64 px; part of what defines the bytes."""

BLOCK_PIXELS = BLOCK * 64**2
"""Pixels computed together at most: what a generator of large images needs in memory for one block stays bounded."""

_loaded: dict[str, Generator] = {}  # the generators of this process, so that each is loaded once


@dataclass(frozen=True)
class Block:
    """One unit of work: samples `start .. stop - 1` of a source, all within one aligned block of `size`."""

    source: str
    folder: Path
    seed: int
    start: int
    stop: int
    size: int
    black_below: int = 0
    white_above: int = 255


def generate_images(
    generator: Generator | str, folder: Path, n: int, seed: int, processes: int = 1, progress: bool = True
) -> None:
    """Write samples 0 .. n-1 of a generator to `folder/0000000.png` and so on; files that are there are kept.

    The bytes depend on the generator, `n` and the `seed` of the latents alone, not on the number of `processes`;
    `progress` shows a bar.

    Raises:
        ValueError: n or processes below 1, or a generator whose images cannot be made again.
    """
    source = generator if isinstance(generator, str) else folder.name
    generate_sources({source: generator}, {source: folder}, n, seed, processes, progress)


def generate_sources(
    generators: Mapping[str, Generator | str],
    folders: Mapping[str, Path],
    n: int,
    seed: int,
    processes: int = 1,
    progress: bool = True,
    black_below: int = 0,
    white_above: int = 255,
) -> None:
    """Write samples of several sources, whose blocks share the processes; files that are there are kept.

    Args:
        generators: a generator, or the name of a bundled source, under a name for the progress bar.
        folders: the folder of each; made if needed.
        n: number of images of each.
        seed: seed of the latents.
        processes: processes that share the work; the bytes do not depend on it.
        progress: say how far it is.
        black_below: 8-bit values below this one are written as 0 (`on_one_ground`).
        white_above: 8-bit values above this one are written as 255.

    Raises:
        ValueError: n or processes below 1, or a generator whose images cannot be made again.
    """
    if n < 1 or processes < 1:
        raise ValueError(f"expected at least 1 image and 1 process, found n={n}, processes={processes}")
    for generator in generators.values():
        check_reproducible(generator)
    blocks = []
    for source, folder in folders.items():
        folder.mkdir(parents=True, exist_ok=True)
        remove_partials(folder)
        size = block_size(generators[source])
        for start in range(0, n, size):
            block = Block(source, folder, seed, start, min(start + size, n), size, black_below, white_above)
            if any(not image_path(folder, i).is_file() for i in range(block.start, block.stop)):
                blocks.append(block)
    processes = min(processes, len(blocks))
    needed = {source: generators[source] for source in {block.source for block in blocks}}
    run = _run_here(needed, blocks) if processes <= 1 else _run_in_processes(needed, blocks, processes)
    total = sum(block.stop - block.start for block in blocks)
    with Progress("making images", total, shown=progress) as made:
        for block in run:
            made.update(block.stop - block.start)


def block_size(generator: Generator | str) -> int:
    """Images of a generator that are computed together: 32 up to 64 px, 8 at 128 px, 2 at 256 px and 1 from 512 px.

    A power of two that depends on the image size alone; bundled sources, which may be given by name, make small images.
    """
    if isinstance(generator, str):
        return BLOCK
    fitting = BLOCK_PIXELS // generator.image_size**2
    return 1 << (min(max(fitting, 1), BLOCK).bit_length() - 1)


def check_reproducible(generator: Generator | str) -> None:
    """Refuse a generator that says of itself that its images cannot be made again."""
    if not getattr(generator, "reproducible", True):
        raise ValueError(
            "found a generator that draws new noise for each image, so that no image can be made again; expected noise "
            "fixed(SEED), buffers or none"
        )


def synthesize_block(generator: Generator, seed: int, start: int) -> Tensor:
    """The images of one aligned block as a file will hold them, uint8 `(block_size, 3, H, W)`.

    Raises:
        ValueError: start is not a multiple of the block size, or a generator whose images cannot be made again.
    """
    size = block_size(generator)
    if start % size:
        raise ValueError(f"found start {start}, expected a multiple of {size}")
    check_reproducible(generator)
    with _one_thread(), torch.no_grad():
        return to_uint8(generator.synthesize(generator.sample_latents(size, seed, start)))


def image_path(folder: Path, index: int) -> Path:
    """File of sample `index`: seven digits, so that names sort as numbers."""
    return folder / f"{index:07d}.png"


def write_png(pixels: NDArray[np.uint8], path: Path, optimize: bool = False) -> None:
    """Write 8-bit RGB pixels `(H, W, 3)` as PNG, atomically; equal pixels give equal bytes, nothing else is stored."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="PNG", compress_level=6, optimize=optimize)
    write_bytes(path, buffer.getvalue())


def on_one_ground(pixels: NDArray[np.uint8], black_below: int = 0, white_above: int = 255) -> NDArray[np.uint8]:
    """Set 8-bit values below `black_below` to 0 and those above `white_above` to 255, channel by channel.

    Images of any origin then stand on one ground, be it black or white; 0 and 255 change nothing.
    """
    return np.where(pixels < black_below, np.uint8(0), np.where(pixels > white_above, np.uint8(255), pixels))


def _write_block(block: Block) -> Block:
    images = synthesize_block(_loaded[block.source], block.seed, block.start - block.start % block.size)
    for index in range(block.start, block.stop):
        path = image_path(block.folder, index)
        if not path.is_file():
            pixels = images[index % block.size].permute(1, 2, 0).numpy()
            write_png(on_one_ground(pixels, block.black_below, block.white_above), path)
    return block


def _begin_worker(generators: Mapping[str, Generator | str], parent: int) -> None:
    """Prepare a process that shares the work: interrupts are for its parent, and it ends when that has ended."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()
    torch.set_num_threads(1)
    _set_loaded(generators)


def _end_with(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(0.5)
    os._exit(1)  # a parent that was killed could not end us; no file is left half-written


def _set_loaded(generators: Mapping[str, Generator | str]) -> None:
    _loaded.clear()
    for source, generator in generators.items():
        _loaded[source] = load_bundled(generator) if isinstance(generator, str) else generator


def _run_here(generators: dict[str, Generator | str], blocks: list[Block]) -> Iterator[Block]:
    try:
        _set_loaded(generators)
        yield from map(_write_block, blocks)
    finally:
        _loaded.clear()


def _run_in_processes(generators: dict[str, Generator | str], blocks: list[Block], processes: int) -> Iterator[Block]:
    # spawned, not forked: a fork of a process whose OpenMP threads have run can hang
    context: Any = multiprocessing.get_context("spawn")
    begin = (generators, os.getpid())
    pool = ProcessPoolExecutor(processes, mp_context=context, initializer=_begin_worker, initargs=begin)
    try:
        for future in as_completed([pool.submit(_write_block, block) for block in blocks]):
            yield future.result()
    finally:
        pool.shutdown(cancel_futures=True)  # after an error or Ctrl-C: finish the blocks begun, start no other


@contextmanager
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def first_samples(source: str, n: int, seed: int) -> Tensor:
    """Return samples 0 .. n-1 of a bundled source as uint8 `(n, 3, H, W)`."""
    generator = load_bundled(source)
    return torch.cat([synthesize_block(generator, seed, start) for start in range(0, n, BLOCK)])[:n]


def save_sheet(images: Tensor, path: Path, columns: int = 8, gap: int = 2) -> None:
    """Write images uint8 `(n, 3, h, w)` as one PNG, row by row, with `gap` white pixels between neighbours."""
    n, _, height, width = images.shape
    rows = -(-n // columns)
    sheet = np.full((rows * (height + gap) + gap, columns * (width + gap) + gap, 3), 255, dtype=np.uint8)
    for i, image in enumerate(images.permute(0, 2, 3, 1).cpu().numpy()):
        top = gap + (i // columns) * (height + gap)
        left = gap + (i % columns) * (width + gap)
        sheet[top : top + height, left : left + width] = image
    write_png(sheet, path, optimize=True)

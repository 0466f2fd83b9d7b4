"""Times and memory, measured so that a busy machine does not decide the outcome."""

from __future__ import annotations

import ctypes
import gc
import statistics
import threading
import time
from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path
from typing import Any


def interleaved(
    rounds: int, clock: Callable[[], Any] = time.perf_counter, **contenders: Callable[[], object]
) -> dict[str, list[Any]]:
    """Seconds of each contender in each round; within a round they run one after the other.

    `time.process_time` as clock counts the processor's work on all threads, and not what other programs do; an array of
    several clocks gives arrays.
    """
    seconds: dict[str, list[Any]] = {name: [] for name in contenders}
    for run in contenders.values():
        run()  # threads, pages and caches are warm for everybody
    for _ in range(rounds):
        for name, run in contenders.items():
            start = clock()
            run()
            seconds[name].append(clock() - start)
    return seconds


def ratio(seconds: dict[str, list[float]], slower: str, faster: str) -> float:
    """How many times faster: the median over rounds, whose two times were taken next to each other."""
    return statistics.median(a / b for a, b in zip(seconds[slower], seconds[faster], strict=True))


def _anonymous_bytes() -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("RssAnon"):
            return int(line.split()[1]) * 1024
    raise RuntimeError("/proc/self/status has no RssAnon; peak memory can be measured on Linux only")


class Peak:
    """Most anonymous memory beyond what there was before: what was allocated, without pages of mapped files."""

    bytes = 0


@contextmanager
def peak_memory():
    gc.collect()
    ctypes.CDLL("libc.so.6").malloc_trim(0)
    before, peak, running = _anonymous_bytes(), Peak(), threading.Event()
    running.set()

    def watch() -> None:
        while running.is_set():
            peak.bytes = max(peak.bytes, _anonymous_bytes() - before)
            time.sleep(0.0005)

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield peak
    finally:
        running.clear()
        watcher.join()

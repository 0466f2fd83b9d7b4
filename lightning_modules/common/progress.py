"""Progress of long work on standard error: a line that moves on a terminal, a line now and then in a log."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import Self

from tqdm import tqdm

DELAY = 2.0  # seconds: what ends before says nothing
INTERVAL = 30.0  # seconds between two lines of a log


class Progress:
    """Says how far some work is; `with Progress("indexing images", 1000) as progress: progress.update(10)`.

    Args:
        what: the work.
        total: how many items there are; None where nobody knows.
        unit: what an item is, in the singular.
        shown: False says nothing at all.
    """

    def __init__(self, what: str, total: int | None, unit: str = "image", shown: bool = True) -> None:
        self.what, self.total, self.unit, self.done = what, total, unit, 0
        self.shown = shown
        self._began = time.monotonic()
        self._next = self._began + DELAY
        self._bar: tqdm[None] | None = None
        self._units = f"{unit}es" if unit.endswith("ch") else f"{unit}s"

    def __enter__(self) -> Self:
        """Begin; nothing is shown yet."""
        self._began = time.monotonic()
        self._next = self._began + DELAY
        return self

    def update(self, count: int) -> None:
        """Note that so many more items are done."""
        self.done += count
        if self._bar is not None:
            self._bar.update(count)
        elif self.shown and time.monotonic() >= self._next:
            self._show()

    def _show(self) -> None:
        if sys.stderr.isatty():
            bar = tqdm(total=self.total, initial=self.done, desc=self.what, unit=f" {self._units}", file=sys.stderr)
            bar.start_t -= time.monotonic() - self._began  # its rate and the time left count from the beginning
            self._bar = bar
            return
        seconds = time.monotonic() - self._began
        line = f"{self.what}: {self.done:,} {self._units}"
        if self.total is not None and self.done:
            left = seconds * (self.total - self.done) / self.done
            line = f"{self.what}: {self.done:,} of {self.total:,} {self._units}, {duration(left)} left"
        sys.stderr.write(line + "\n")
        sys.stderr.flush()
        self._next = time.monotonic() + INTERVAL

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End the line."""
        if self._bar is not None:
            self._bar.close()


def duration(seconds: float) -> str:
    """A time in words: 90 s, 12 min, 2.5 h."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"

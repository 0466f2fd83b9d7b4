"""Looks on while a trainer's module searches for keys: says how far it is, ends it on SIGTERM, keeps its answers."""

from __future__ import annotations

import shutil
import signal
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.utilities.exceptions import SIGTERMException

from lightning_modules.common.progress import Progress
from lightning_modules.fingerprints.decoders.base import CachedDecoder, KeyDecoder

ANSWERS = "answers"
"""Folder in that of a test: the answers of blocks that are not finished."""


class SearchWatch:
    """A `fingerprints.decoders.base.Watch` that counts the images of the first process on standard error.

    In a program that has no handler of SIGTERM, Lightning notes the signal and looks at the note between two batches;
    a batch of searches takes minutes or hours.
    """

    def __init__(self, trainer: pl.Trainer) -> None:
        self.trainer = trainer
        self.folder = Path(trainer.default_root_dir) / ANSWERS
        self._progress: Progress | None = None
        self._searches: Mapping[str, int] = {}
        self._done = self._due = 0

    def begin(self, loader: Any, searches: Mapping[str, int] | None = None) -> None:
        """Begin to count.

        Args:
            loader: of blocks (`datamodules.blocks`), whose data set tells how many images of each part this process has
                left; of another kind, no total is shown.
            searches: how often each image of a part is searched, where that is more than once.
        """
        left = getattr(getattr(loader, "dataset", None), "images_left", None)
        self._searches, self._done, self._due = searches or {}, 0, 0
        if self.trainer.is_global_zero:
            total = None if left is None else sum(count * self._searches.get(part, 1) for part, count in left.items())
            self._progress = Progress("searching keys", total)

    def check(self) -> None:
        """Raise `SIGTERMException`, with the exit status of that signal, where Lightning has noted one."""
        if self.trainer.received_sigterm:
            raise SIGTERMException(128 + signal.SIGTERM)

    def advance(self, images: int) -> None:
        """Count finished images."""
        self._done += images
        if self._progress is not None:
            self._progress.update(images)

    def finish_block(self, part: str, images: int, decoder: KeyDecoder) -> None:
        """Count images of a committed block that needed no search too; forget the answers that the block holds."""
        self._due += images * self._searches.get(part, 1)
        if self._done < self._due:
            self.advance(self._due - self._done)
        if isinstance(decoder, CachedDecoder) and decoder.folder == self.folder:
            decoder.forget()

    def end(self) -> None:
        """End the line; remove the folder of answers."""
        if self._progress is not None:
            self._progress.__exit__(None, None, None)
            self._progress = None
        if self.trainer.is_global_zero:
            shutil.rmtree(self.folder, ignore_errors=True)

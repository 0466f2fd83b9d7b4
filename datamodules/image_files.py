"""ImageFilesDataModule: loose image files, to say for each which source made it."""

from __future__ import annotations

import hashlib
import sys
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
import pytorch_lightning as pl
from torch.utils.data import DataLoader

from datamodules.blocks import block_loader
from datamodules.images.file_scan import describe_files, scan_files, unlike
from datamodules.images.image_io import MAX_PIXELS, path_text
from datamodules.images.image_search import LeftOut, left_out_line, search_images, write_left_out
from datamodules.images.indexed_images import PlannedImages, collate_images
from datamodules.images.pixel_path import PixelPath, Reencode
from datamodules.images.problems import NOTHING_LEFT, PREDICTION, Kind, Problems
from lightning_modules.common.blocks import Block, blocks_of


def find_image_files(images: str) -> list[Path]:
    """The image files that a path or pattern names, sorted, as ``predict`` reads them.

    Raises:
        FileNotFoundError: There is none.
    """
    return search_images(images).files


class ImageFilesDataModule(pl.LightningDataModule):
    """Image files without labels, for ``predict``.

    Batches are those of ``GMDataModule`` without ``label``; ``index`` is the position in the sorted list of files, and
    each file comes once over all processes. The pixels must take the path they took in training: give the same
    ``center_crop``, ``resize`` and ``reencode``.

    Attributes:
        left_out: Files that are no images, or that are reached twice (after ``prepare_data``, on rank 0).
        skipped: What stands in for the images that cannot be used (after ``setup``): ``{"index", "path", "reason"}``
            each; empty unless ``skip_unreadable``.

    Args:
        images: A file, a folder (with its sub-folders) or a glob, see ``search_images``.
        image_size: Side, or [height, width], in pixels that every image must have after the pixel path; None asks only
            that all are alike.
        num_workers: Processes that decode; 0 decodes in the main process.
        reencode: As in ``GMDataModule``.
        center_crop: As in ``GMDataModule``.
        resize: As in ``GMDataModule``.
        skip_unreadable: Go on without images that cannot be used, if there are others.
        trained_on: Formats, modes and sizes of the training files (``GMDataModule.training_files``), to say where
            these files differ.
        left_out_file: Where all files that are left out are listed; None to name the first ones alone.
        max_image_pixels: As in ``GMDataModule``.
        block_size: Images of a block: what is computed and committed at once, on whatever process.
        fit: Bring images of another size to ``image_size`` (``pixel_path.fit``) in place of refusing them.
    """

    def __init__(
        self,
        images: str,
        image_size: int | list[int] | None = None,
        num_workers: int = 0,
        reencode: Reencode = "none",
        center_crop: int | None = None,
        resize: int | None = None,
        skip_unreadable: bool = False,
        trained_on: dict[str, dict[str, int]] | None = None,
        left_out_file: str | None = None,
        max_image_pixels: int = MAX_PIXELS,
        block_size: int = 64,
        fit: bool = False,
    ) -> None:
        super().__init__()
        self.save_hyperparameters()
        if block_size < 1 or num_workers < 0:
            raise ValueError(f"block_size is {block_size}, num_workers {num_workers}; expected at least 1 and 0")
        sides = [image_size, image_size] if isinstance(image_size, int) else image_size
        if sides is not None and (len(sides) != 2 or min(sides) < 1):
            raise ValueError(f"image_size is {image_size}; expected a side in pixels, [height, width] or null")
        self.expected_size = None if sides is None else (int(sides[0]), int(sides[1]))
        if fit and self.expected_size is None:
            raise ValueError("fit is true without image_size; expected the size that images are brought to")
        self.pixel_path = PixelPath(
            center_crop, resize, reencode, max_image_pixels, self.expected_size if fit else None
        )
        self.fitted: dict[str, str] = {}
        """Size ``<width>x<height>`` of the files that were brought to another (after ``prepare_data``, on rank 0)."""
        self.left_out: list[LeftOut] = []
        self.skipped: list[dict[str, Any]] = []
        self.files_hash = ""
        self.find_unfinished: Callable[..., list[Block]] | None = None
        """From trainer, hash of the files, numbers of images and block size to the blocks left to do; None: all."""
        self._usable: list[str] | None = None
        self._images: PlannedImages | None = None

    def prepare_data(self) -> None:
        """Decode every file once, so that a bad one is an error before the first prediction. Runs on rank 0 alone.

        Says on standard error what is left out or skipped, and where files differ from those of the training.

        Raises:
            FileNotFoundError: No image is there.
            GMDataError: Files that cannot be used, all in one message.
        """
        where = f"images {path_text(self.hparams['images'])}"
        problems = Problems(where, NOTHING_LEFT if self.hparams["skip_unreadable"] else PREDICTION)
        found = search_images(self.hparams["images"])
        paths = [path_text(file) for file in found.files]
        facts = [fact for some in scan_files(Path(), paths, self.pixel_path, set(), None) for fact in some]
        bad: dict[int, tuple[Kind, str]] = {}  # by position
        for index, fact in enumerate(facts):
            if fact.problem:
                bad[index] = (Kind[fact.problem], fact.reason)
            elif self.expected_size not in (None, (fact.height, fact.width)):
                height, width = self.expected_size
                found_size = f"{fact.width}x{fact.height} (width x height), expected {width}x{height}"
                bad[index] = (Kind.WRONG_SIZE, found_size)
        usable = [fact for index, fact in enumerate(facts) if index not in bad]
        if len({(fact.height, fact.width) for fact in usable}) > 1:
            for path, fact in zip(paths, facts, strict=True):
                if not fact.problem:
                    problems.add(Kind.MIXED_SIZES, f"{path}: {fact.width}x{fact.height} (width x height)")
        skip = self.hparams["skip_unreadable"] and usable
        for index, (kind, reason) in bad.items():
            if not skip:
                problems.add(kind, f"{paths[index]}: {reason}")
        for folder in found.unreadable:
            if skip:
                found.left_out.append(folder)
            else:
                problems.add(Kind.UNREADABLE, f"{folder.path}: {folder.reason}")
        problems.raise_if_any()
        self.left_out = found.left_out
        self.skipped = [
            {"index": index, "path": paths[index], "reason": f"{kind.title}: {reason}"}
            for index, (kind, reason) in bad.items()
        ]
        self._usable = [path for index, path in enumerate(paths) if index not in bad]
        if self.pixel_path.fitted is not None:
            height, width = self.pixel_path.fitted
            sizes = {path: fact.size for path, fact in zip(paths, facts, strict=True) if not fact.problem}
            self.fitted = {path: size for path, size in sizes.items() if size != f"{width}x{height}"}
        contents = "\n".join(f"{paths[index]}\0{fact.final}" for index, fact in enumerate(facts) if index not in bad)
        self.files_hash = hashlib.sha256(contents.encode(errors="surrogateescape")).hexdigest()[:32]
        self._tell(where, describe_files(pd.DataFrame([vars(fact) for fact in usable])))

    def _tell(self, where: str, described: dict[str, dict[str, int]]) -> None:
        lines = []
        if self.left_out:
            file = None if self.hparams["left_out_file"] is None else Path(self.hparams["left_out_file"])
            if file is not None:
                write_left_out(file, self.left_out)
            lines.append(left_out_line(len(self._usable or []) + len(self.skipped), self.left_out, file))
        if self.skipped:
            first = "; ".join(f"{item['path']}: {item['reason']}" for item in self.skipped[:3])
            more = f" and {len(self.skipped) - 3:,} more" if len(self.skipped) > 3 else ""
            lines.append(f"skipped {len(self.skipped):,} that cannot be used, each with a row: {first}{more}")
        if self.fitted:
            sizes = Counter(self.fitted.values())
            told = ", ".join(f"{size} ({n:,})" for size, n in sizes.most_common(3)) + (
                ", ..." if len(sizes) > 3 else ""
            )
            lines.append(
                f"{len(self.fitted):,} of another size are cut free of flat bars and resized to "
                f"{self.pixel_path.fitted}: {told}"
            )
        lines += unlike(described, self.hparams["trained_on"] or {})
        for line in lines:
            sys.stderr.write(f"note: {where}: {line}\n")

    def setup(self, stage: str | None = None) -> None:
        """Share the list of files that rank 0 has checked; without a Trainer, check them if nobody has."""
        strategy = getattr(self.trainer, "strategy", None)
        if strategy is not None:
            self._usable, self.skipped = strategy.broadcast((self._usable, self.skipped))
        elif self._usable is None:
            self.prepare_data()
        skipped = {item["index"] for item in self.skipped}
        usable = self._usable or []
        positions = [index for index in range(len(usable) + len(skipped)) if index not in skipped]
        rows = pd.DataFrame({"path": usable, "position": positions})
        self._images = PlannedImages(Path(), rows, self.pixel_path, sources=None)

    def predict_dataloader(self) -> DataLoader[dict[str, Any]]:
        """This process's blocks of the files that are not finished (`find_unfinished`).

        Raises:
            RuntimeError: ``setup`` has not run.
        """
        if self._images is None:
            found = "the files are not listed yet"
            raise RuntimeError(f"{found}; call setup() first (a Trainer does so before it asks for batches)")
        find = blocks_of
        if self.find_unfinished is not None:
            find = partial(self.find_unfinished, self.trainer, self.files_hash)
        given = self.hparams
        parts = {"predict": self._images}
        return block_loader(parts, given["block_size"], self.trainer, given["num_workers"], collate_images, find)

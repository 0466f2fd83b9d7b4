"""ImageFilesDataModule: loose image files, to say for each which source made it."""

from __future__ import annotations

import glob
from pathlib import Path
from typing import Any

import pandas as pd
import pytorch_lightning as pl
from torch.utils.data import DataLoader

from datamodules.gm_index.cache import look_at
from datamodules.gm_index.images import PlannedImages, collate_images
from datamodules.gm_index.pixel_path import PixelPath, Reencode
from datamodules.gm_index.problems import Kind, Problems
from datamodules.image_io import IMAGE_SUFFIXES
from datamodules.samplers import evaluation_sampler


def find_image_files(images: str) -> list[Path]:
    """Files that a path names, sorted.

    Args:
        images: A file, a folder (its images and those of its sub-folders) or a glob (``**`` for any depth).

    Raises:
        FileNotFoundError: There is none.
    """
    path = Path(images).expanduser()
    if path.is_dir():
        found = [file for file in path.rglob("*") if file.is_file() and file.name.lower().endswith(IMAGE_SUFFIXES)]
        found = [file for file in found if not any(part.startswith(".") for part in file.relative_to(path).parts)]
        expected = f"a folder with {', '.join(IMAGE_SUFFIXES)} files"
    elif path.exists():
        return [path]
    else:
        found = [Path(name) for name in glob.glob(str(path), recursive=True) if Path(name).is_file()]  # noqa: PTH207 (absolute patterns)
        expected = "an image file, a folder of images, or a glob that matches some; check the path"
    if not found:
        what = "a folder without images" if path.is_dir() else "nothing"
        raise FileNotFoundError(f"found {what} at --images {images}, expected {expected}")
    return sorted(found)


class ImageFilesDataModule(pl.LightningDataModule):
    """Image files without labels, for ``predict``.

    Batches are those of ``GMDataModule`` without ``label``; ``index`` is the position in the sorted list of files, and
    each file comes once over all processes. The pixels must take the path they took in training: give the same
    ``center_crop``, ``resize`` and ``reencode``.

    Args:
        images: A file, a folder (with its sub-folders) or a glob.
        image_size: Side, or [height, width], in pixels that every image must have after the pixel path; None asks only
            that all are alike.
        batch_size: Images per process and step.
        num_workers: Processes that decode; 0 decodes in the main process.
        reencode: As in ``GMDataModule``.
        center_crop: As in ``GMDataModule``.
        resize: As in ``GMDataModule``.
    """

    def __init__(
        self,
        images: str,
        image_size: int | list[int] | None = None,
        batch_size: int = 64,
        num_workers: int = 0,
        reencode: Reencode = "none",
        center_crop: int | None = None,
        resize: int | None = None,
    ) -> None:
        super().__init__()
        self.save_hyperparameters()
        if batch_size < 1 or num_workers < 0:
            raise ValueError(f"batch_size is {batch_size}, num_workers {num_workers}; expected at least 1 and 0")
        sides = [image_size, image_size] if isinstance(image_size, int) else image_size
        if sides is not None and (len(sides) != 2 or min(sides) < 1):
            raise ValueError(f"image_size is {image_size}; expected a side in pixels, [height, width] or null")
        self.expected_size = None if sides is None else (int(sides[0]), int(sides[1]))
        self.pixel_path = PixelPath(center_crop, resize, reencode)
        self._prepared = False
        self._images: PlannedImages | None = None

    def prepare_data(self) -> None:
        """Decode every file once, so that a bad one is an error before the first prediction. Runs on rank 0 alone.

        Raises:
            FileNotFoundError: No file is there.
            GMDataError: Files that cannot be used, all in one message.
        """
        files = find_image_files(self.hparams["images"])
        problems = Problems(where=f"images {self.hparams['images']}")
        facts = look_at(Path(), [str(file) for file in files], self.pixel_path, set(), None)
        usable = {(fact.height, fact.width) for fact in facts if not fact.problem}
        for file, fact in zip(files, facts, strict=True):
            size = f"{file}: {fact.width}x{fact.height} (width x height)"
            if fact.problem:
                problems.add(Kind[fact.problem], f"{file}: {fact.reason}")
            elif self.expected_size is not None and (fact.height, fact.width) != self.expected_size:
                height, width = self.expected_size
                problems.add(Kind.WRONG_SIZE, f"{size}, expected {width}x{height}")
            elif self.expected_size is None and len(usable) > 1:
                problems.add(Kind.MIXED_SIZES, size)
        problems.raise_if_any()
        self._prepared = True

    def setup(self, stage: str | None = None) -> None:
        """List the files; without a Trainer, check them if nobody has."""
        if not self._prepared and self.trainer is None:
            self.prepare_data()
        rows = pd.DataFrame({"path": [str(file) for file in find_image_files(self.hparams["images"])]})
        self._images = PlannedImages(Path(), rows, self.pixel_path, sources=None)

    def predict_dataloader(self) -> DataLoader[dict[str, Any]]:
        """Every file once over all processes, in order.

        Raises:
            RuntimeError: ``setup`` has not run.
        """
        if self._images is None:
            raise RuntimeError(
                "the files are not listed yet; call setup() first (a Trainer does so before it asks for batches)"
            )
        return DataLoader(
            self._images,
            batch_size=self.hparams["batch_size"],
            sampler=evaluation_sampler(self._images, self.trainer),
            num_workers=self.hparams["num_workers"],
            collate_fn=collate_images,
        )

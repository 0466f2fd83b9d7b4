"""Images of a plan as map-style data sets, decoded when asked for, and the batches they make."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import torch
from torch.utils.data import Dataset, default_collate

from datamodules.images.image_io import chw, path_text, text_path
from datamodules.images.pixel_path import PixelPath
from lightning_modules.common.content_ids import content_id, content_id_to_int


class PlannedImages(Dataset[dict[str, Any]]):
    """Images of one split: ``{"image": uint8 (3, H, W), "label", "content_id", "index", "path"}``, path as text.

    Paths lie in one Arrow array, not in a list: workers then share the memory of a list of millions instead of copying
    it. Without ``final`` in the rows, files are not compared with what was indexed; with ``position``, that is the
    ``index`` of an item; with ``semantic``, what it shows is said too. Without sources there is no ``label`` (the
    manifold has none).
    """

    def __init__(self, base: Path, rows: pd.DataFrame, pixel_path: PixelPath, sources: list[str] | None) -> None:
        self.base, self.pixel_path = base, pixel_path
        self.paths = pa.array(rows["path"].astype(object), type=pa.large_string())
        self.final = pa.array(rows["final"].astype(object), type=pa.large_string()) if "final" in rows else None
        self.positions = rows["position"].to_numpy(dtype=np.int64) if "position" in rows else None
        self.semantics = pa.array(rows["semantic"], type=pa.large_string()) if "semantic" in rows else None
        self.labels = None
        if sources is not None:
            positions = {name: position for position, name in enumerate(sources)}
            self.labels = rows["source"].map(positions).to_numpy(dtype=np.int64)

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """Item ``index``.

        Raises:
            RuntimeError: The file has changed since it was indexed.
        """
        path = self.base / text_path(self.paths[index].as_py())
        pixels = self.pixel_path.read(path)
        identifier = content_id(pixels)
        if self.final is not None and identifier != self.final[index].as_py():
            raise RuntimeError(
                f"{path_text(path)} changed since the data set was indexed; start again, so that it is checked and "
                "split anew"
            )
        item: dict[str, Any] = {
            "image": chw(pixels),
            "content_id": content_id_to_int(identifier),
            "index": index if self.positions is None else int(self.positions[index]),
            "path": path_text(path),
        }
        if self.semantics is not None:
            item["semantic"] = self.semantics[index].as_py()
        if self.labels is not None:
            item["label"] = int(self.labels[index])
        return item


class ManifoldImages(PlannedImages):
    """Reals of the manifold: ``{"image": uint8 (3, H, W), "content_id": int}``, in the order of their paths."""

    def __init__(self, base: Path, rows: pd.DataFrame, pixel_path: PixelPath) -> None:
        super().__init__(base, rows, pixel_path, sources=None)

    def __getitem__(self, index: int) -> dict[str, Any]:
        item = super().__getitem__(index)
        return {"image": item["image"], "content_id": item["content_id"]}

    @property
    def content_ids(self) -> torch.Tensor:
        """Content ids of all images, int64 (N,), without decoding any."""
        identifiers = [] if self.final is None else self.final.to_pylist()
        return torch.tensor([content_id_to_int(identifier) for identifier in identifiers], dtype=torch.int64)


def collate_images(items: list[dict[str, Any]]) -> dict[str, Any]:
    """Items to a batch: ``image`` becomes float32 (N, 3, H, W) in [0, 1], numbers int64 tensors, paths a list."""
    batch: dict[str, Any] = default_collate(items)
    batch["image"] = batch["image"].to(torch.float32).div_(255)
    return batch

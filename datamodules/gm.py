"""GMDataModule: a GM data set on disk (real images and the images of several generators) as batches."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.utilities import rank_zero_warn
from torch.utils.data import DataLoader

from datamodules.blocks import block_loader
from datamodules.gm_index.audit import Duplicates, Leak
from datamodules.gm_index.manifest import UNKNOWN, FormatAudit, Plan, PlanSettings, make_plan
from datamodules.gm_index.semantics import TrainWhere
from datamodules.gm_index.splits import SPLITS, SplitRule
from datamodules.images.image_io import MAX_PIXELS, path_text
from datamodules.images.indexed_images import ManifoldImages, PlannedImages, collate_images
from datamodules.images.pixel_path import PixelPath, Reencode
from datamodules.samplers import TrainingSampler, evaluation_sampler, rank_and_world, training_sampler

Batch = dict[str, Any]


class GMDataModule(pl.LightningDataModule):
    r"""Images of several sources, checked, split and audited before anything is trained (ManiFPT notes, section 4).

    On disk: ``root/<family>-<model>/`` and ``root/real-<name>/``, each folder a source, with images of any kind that
    Pillow reads (``image_io.decode_image``), in sub-folders and behind links as well;
    ``root/manifold-<name>/``, reals that only form the manifold (without it, a part of each ``real-<name>`` does);
    ``root/sources.yaml``, what is known about the sources. Or a table of paths and sources, ``index_file``.

    Batches are dicts: ``image`` float32 (N, 3, H, W) in [0, 1], ``label``, ``content_id`` and ``index`` int64 (N,),
    ``path`` list of str. The Trainer needs ``use_distributed_sampler=False``: the samplers are chosen here.

    Args:
        root: Folder of the data set; with ``index_file``, the folder that its relative paths start from.
        index_file: CSV or Parquet with the columns ``path``, ``source`` and optionally ``split`` (train, val, test,
            manifold) and ``group`` (images that come from one photograph or prompt, of whatever sources).
        batch_size: Images per process and step.
        num_workers: Processes that decode for each loader; 0 decodes in the main process.
        train_fraction: Share of each source for training.
        val_fraction: Share for validation.
        test_fraction: Share for test; the three sum to 1.
        manifold_fraction: Share of the reals that forms the manifold before the rest is divided, where there is no
            folder ``manifold-<name>``.
        seed: Draws the split.
        shuffle_seed: Order of the training images, with the epoch; None for the seed of ``seed_everything``, without
            one ``seed``.
        images_per_source: Most images of one source in train, val and test together; None for all.
        manifold_size: Most reals in the manifold; None for all.
        split_file: ``.json`` or ``.parquet`` with the split: used where it exists, else written.
        format_audit: When format, JPEG tables, size or mode give the source away: ``error`` stops, ``warn`` goes on,
            ``off`` does not look.
        reencode: ``png`` or ``jpeg_95`` puts all images through one codec; ``none`` takes the pixels as they are.
        center_crop: Side of the central square to cut out first, in pixels.
        resize: Length of the shorter side to scale to then, in pixels.
        duplicates: For a picture that several sources share: ``error``, or ``drop`` every copy.
        cache_dir: Folder of the index; None for ``root/.gm_index``.
        groups: What names the group of an image where no index file does: ``stem``, the file's name without suffix; or
            a regular expression with one part in parentheses, looked for in that name (``^(\d+)`` joins 0001.png and
            0001_seed3.png); None for no groups. No group has images in two of train, val, test and manifold.
        block_size: Images of a block: what a test computes and commits at once, on whatever process. The last digits of
            its numbers depend on it.
        train_where: Learn from some kind of content alone: ``{column: garment, values: [dress]}`` keeps images with
            these values of a column of the index file for training, validation and manifold; the test has those with
            others (``test: all``: with all). Test images are scored by value as well.
        max_image_pixels: Most pixels that a file's picture may have; a larger one is refused by its header.
        unknown_sources: Sources that are held out, none by default: no class of an attributor, in no training and no
            validation. Their test images are a part of the test of their own, as images of sources nobody knows.

    Raises:
        ValueError: An argument that cannot be; problems of the data come from ``prepare_data`` as one ``GMDataError``.
    """

    CHANGEABLE_ON_RESUME = frozenset(
        {
            "root",
            "index_file",
            "split_file",
            "num_workers",
            "cache_dir",
            "format_audit",
            "block_size",
            "max_image_pixels",
        }
    )
    """Arguments that may differ where a training goes on: files may lie elsewhere, their content is compared."""

    def __init__(
        self,
        root: str | None = None,
        index_file: str | None = None,
        batch_size: int = 64,
        num_workers: int = 0,
        train_fraction: float = 0.7,
        val_fraction: float = 0.1,
        test_fraction: float = 0.2,
        manifold_fraction: float = 0.5,
        seed: int = 0,
        shuffle_seed: int | None = None,
        images_per_source: int | None = None,
        manifold_size: int | None = None,
        split_file: str | None = None,
        format_audit: FormatAudit = "error",
        reencode: Reencode = "none",
        center_crop: int | None = None,
        resize: int | None = None,
        duplicates: Duplicates = "error",
        cache_dir: str | None = None,
        groups: str | None = None,
        block_size: int = 64,
        max_image_pixels: int = MAX_PIXELS,
        train_where: dict[str, Any] | None = None,
        unknown_sources: list[str] | None = None,
    ) -> None:
        super().__init__()
        self.save_hyperparameters()
        if root is None and index_file is None:
            raise ValueError("neither root nor index_file is given; name the folder of the data set, or an index of it")
        if min(batch_size, block_size) < 1 or num_workers < 0:
            raise ValueError(
                f"batch_size is {batch_size}, block_size {block_size}, num_workers {num_workers}; expected at least 1, "
                "1 and 0"
            )
        base = Path(root).expanduser() if root is not None else Path(str(index_file)).expanduser().parent
        self.settings = PlanSettings(
            base=base.absolute(),
            index_file=Path(index_file).expanduser().absolute() if index_file is not None else None,
            pixel_path=PixelPath(center_crop, resize, reencode, max_image_pixels),
            rule=SplitRule(
                seed, train_fraction, val_fraction, test_fraction, manifold_fraction, images_per_source, manifold_size
            ),
            split_file=Path(split_file).expanduser().absolute() if split_file is not None else None,
            format_audit=format_audit,
            duplicates=duplicates,
            cache_folder=_cache_folder(base.absolute(), cache_dir),
            groups=groups,
            train_where=TrainWhere.of(train_where, index_file),
            unknown=tuple(dict.fromkeys(unknown_sources or ())),
        )
        self._plan: Plan | None = None
        self._prepared_here = False

    def prepare_data(self) -> None:
        """Index what is new, check everything, draw or read the split, write the plan; rank 0 alone, the others wait.

        Raises:
            GMDataError: Everything that is wrong with the data, in one message.
        """
        plan = make_plan(self.settings)
        for note in plan.notes:
            rank_zero_warn(f"{path_text(self.settings.index_file or self.settings.base)}: {note}")
        self._plan, self._prepared_here = plan, True

    def setup(self, stage: str | None = None) -> None:
        """Read the plan that rank 0 wrote; without a Trainer, prepare the data if nobody has."""
        if self._prepared_here:
            return
        if self.trainer is None and rank_and_world(None)[0] == 0:
            self.prepare_data()
        else:  # again for each stage: rank 0 may have found the data changed
            self._plan = Plan.read(self.settings)

    @property
    def plan(self) -> Plan:
        """The plan: every image used, its source, split and content ids.

        Raises:
            RuntimeError: ``setup`` has not run.
        """
        if self._plan is None:
            raise RuntimeError(
                "the data set is not read yet; call setup() first (a Trainer does so before it asks for batches)"
            )
        return self._plan

    def relabel(self, labels: Mapping[str, int], classes: Sequence[str]) -> None:
        """Join sources to classes: labels are positions among these from now on; images of other sources are left out.

        The manifold stays as it is.
        """
        rows = self.plan.rows
        manifold = rows["split"] == "manifold"
        joined = rows["source"].map({source: classes[place] for source, place in labels.items()})
        rows = rows.assign(source=joined.where(~manifold, rows["source"]))[manifold | joined.notna()]
        self._plan = replace(self.plan, rows=rows.reset_index(drop=True), sources=list(classes))

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint keeps of the data: a hash over the pictures of each split."""
        return {"splits": {split: self._pictures(split) for split in SPLITS}}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Refuse to go on with a training on other pictures; a test may have any.

        Raises:
            ValueError: Names the splits that differ.
        """
        if self.trainer is None or self.trainer.state.fn != "fit":
            return
        other = [split for split, found in state_dict["splits"].items() if found != self._pictures(split)]
        if other:
            raise ValueError(
                f"{self.settings.index_file or self.settings.base}: found other pictures in {', '.join(other)} than "
                "those that the training began with; restore the data set, or begin a new training without --ckpt_path"
            )

    def _pictures(self, split: str) -> str:
        rows = self.plan.rows
        contents = sorted(rows.loc[rows["split"] == split, "final"] + rows.loc[rows["split"] == split, "source"])
        return hashlib.blake2b("\n".join(contents).encode(), digest_size=16).hexdigest()

    @property
    def sources(self) -> list[str]:
        """Names of the sources; a label is a position here."""
        return self.plan.sources

    @property
    def unknown_sources(self) -> list[str]:
        """Names of the sources that are held out; the labels of their images follow those of `sources`."""
        return self.plan.unknown

    @property
    def source_info(self) -> dict[str, dict[str, Any]]:
        """Entries of ``sources.yaml``."""
        return self.plan.source_info

    @property
    def file_audit(self) -> list[Leak] | None:
        """How well each attribute of the files that varies names the source; None where the audit was off."""
        return self.plan.audit

    @property
    def training_files(self) -> dict[str, dict[str, int]]:
        """Formats, modes and sizes of the training files, and how many have each."""
        return self.plan.training_files

    @property
    def image_size(self) -> tuple[int, int]:
        """(H, W) of every image, in pixels."""
        return self.plan.image_size

    @property
    def cache_dir(self) -> Path:
        """Folder of what is computed from the data set once: its index, manifolds, neighbours."""
        return self.settings.cache_folder

    def counts(self, split: str) -> dict[str, int]:
        """Number of images of each source in ``train``, ``val`` or ``test``, or of those held out in ``unknown``."""
        found = self.plan.rows.loc[self.plan.rows["split"] == split, "source"].value_counts()
        sources = self.unknown_sources if split == UNKNOWN else self.sources
        return {source: int(found.get(source, 0)) for source in sources}

    def describe(self) -> dict[str, str]:
        """What a report says of the data: images of each split by source, reals of the manifold, groups, notes."""
        splits = ("train", "val", "test", *([UNKNOWN] if self.unknown_sources else []))
        counts = {split: self.counts(split).items() for split in splits}
        rows = self.plan.rows
        images = rows[rows["split"] != "manifold"]
        leaks = "; ".join(leak.summary for leak in self.file_audit or []) or "the same in all files"
        return {
            **{split: ", ".join(f"{source} {count:,}" for source, count in found) for split, found in counts.items()},
            "manifold": f"{int((rows['split'] == 'manifold').sum()):,} reals",
            "all images": f"{len(images):,}, hash {_digest(sorted(images['final'] + ' ' + images['source']))[:12]}",
            "image size": f"{self.image_size[0]} x {self.image_size[1]} px",
            "groups": self.plan.groups,
            "file attributes": "not audited (format_audit: off)" if self.file_audit is None else leaks,
            "notes": " ".join(self.plan.notes) or "none",
        }

    def images(self, split: str) -> PlannedImages:
        """The labelled images of ``train``, ``val``, ``test`` or ``unknown`` as a map-style data set.

        They are decoded when asked for.

        Raises:
            ValueError: The split is empty.
        """
        rows = self.plan.rows[self.plan.rows["split"] == split]
        if rows.empty:
            raise ValueError(f"no image has the split {split!r}; its fraction is 0: give {split}_fraction a share")
        names = [*self.sources, *self.unknown_sources]
        return PlannedImages(self.settings.base, rows, self.settings.pixel_path, names)

    def sample_batches(self, split: str, count: int) -> Iterator[Batch]:
        """Batches of ``count`` random images of a split, at most all, the same each time and on every process."""
        images = self.images(split)
        chosen = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))[:count]
        for indices in torch.split(chosen, self.hparams["batch_size"]):
            yield collate_images([images[index] for index in indices.tolist()])

    def manifold_images(self) -> ManifoldImages:
        """The reals of the manifold: a map-style data set of ``{"image": uint8 (3, H, W), "content_id": int}``."""
        rows = self.plan.rows[self.plan.rows["split"] == "manifold"]
        return ManifoldImages(self.settings.base, rows, self.settings.pixel_path)

    def train_dataloader(self) -> DataLoader[Batch]:
        """Training images, shuffled by (shuffle seed, epoch).

        An incomplete last batch is left out, unless it is the only one: batch normalisation cannot train on one image.
        """
        return self._loader("train")

    def _training_sampler(self, images: PlannedImages) -> TrainingSampler:
        seed = self.hparams["shuffle_seed"]
        if seed is None:
            seed = int(os.environ.get("PL_GLOBAL_SEED", self.hparams["seed"]))
        return training_sampler(images, seed, self.trainer)

    def val_dataloader(self) -> DataLoader[Batch]:
        """Validation images, each once over all processes, in order."""
        return self._loader("val")

    def test_dataloader(self) -> DataLoader[Batch]:
        """This process's blocks of the test images."""
        given = self.hparams
        parts = {split: self.images(split) for split in ("test", *([UNKNOWN] if self.unknown_sources else []))}
        return block_loader(parts, given["block_size"], self.trainer, given["num_workers"], collate_images)

    def content_ids(self, split: str) -> torch.Tensor:
        """The pictures of a split as a set of content ids, int64, sorted (``common.content_ids``)."""
        return self.plan.content_ids(split)

    def evaluation_settings(self) -> dict[str, Any]:
        """What a test's numbers depend on: the pictures in their order, and their sources."""
        found: dict[str, Any] = {"pictures": self._order("test")}
        if self.unknown_sources:
            found["pictures of unknown sources"] = self._order(UNKNOWN)
        where = self.settings.train_where
        return found if where is None else {**found, "train_where": asdict(where)}

    def _order(self, split: str) -> str:
        rows = self.plan.rows[self.plan.rows["split"] == split]
        return _digest(list(rows["final"] + " " + rows["source"]))

    def _loader(self, split: str) -> DataLoader[Batch]:
        images, batch_size, workers = self.images(split), self.hparams["batch_size"], self.hparams["num_workers"]
        training = split == "train"
        sampler = self._training_sampler(images) if training else evaluation_sampler(images, self.trainer)
        return DataLoader(
            images,
            batch_size=batch_size,
            sampler=sampler,
            num_workers=workers,
            collate_fn=collate_images,
            persistent_workers=workers > 0,
            pin_memory=torch.cuda.is_available(),
            drop_last=training and len(sampler) >= batch_size,
        )


def _cache_folder(base: Path, cache_dir: str | None) -> Path:
    if cache_dir is None:
        return base / ".gm_index"
    name = hashlib.blake2b(os.fsencode(base), digest_size=6).hexdigest()  # one cache_dir may serve several data sets
    return Path(cache_dir).expanduser().absolute() / f"{base.name}-{name}"


def _digest(lines: Sequence[str]) -> str:
    return hashlib.blake2b("\n".join(lines).encode(), digest_size=16).hexdigest()

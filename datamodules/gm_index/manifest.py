"""From a GM data set to a plan: which image is what, checked, split, audited, and written for every process to read."""

from __future__ import annotations

import hashlib
import json
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

import pandas as pd
from torch import Tensor

from datamodules.gm_index.audit import Duplicates, Leak, audit_formats, describe, drop_duplicates, lossy_history
from datamodules.gm_index.file_index import INDEX_VERSION, build_index, read_parquet, write_parquet
from datamodules.gm_index.grouped_splits import draw_grouped_splits
from datamodules.gm_index.groups import assign_groups, check_groups, describe_groups, join_copies, looks_grouped
from datamodules.gm_index.semantics import SEMANTIC, TrainWhere
from datamodules.gm_index.sources import discover_folders, read_index_file, read_sources_yaml
from datamodules.gm_index.splits import SUFFIXES, SplitRule, check_given, draw_splits, read_split_file, write_split_file
from datamodules.images.file_scan import describe_files
from datamodules.images.image_io import path_text
from datamodules.images.image_search import LeftOut, left_out_line, write_left_out
from datamodules.images.pixel_path import PixelPath
from datamodules.images.problems import GMDataError, Kind, Problems, counted
from lightning_modules.common.content_ids import id_set
from lightning_modules.common.files import check_file, check_folder, write_text

FormatAudit = Literal["error", "warn", "off"]
PLAN_COLUMNS = ["path", "source", "split", "content", "final", "group"]
SHOWN_OF_A_GROUP = 2  # files of each split


@dataclass(frozen=True)
class PlanSettings:
    """Everything a plan depends on besides the files: arguments of ``GMDataModule``, its paths absolute.

    Attributes:
        base: Folder that relative paths start from.
        rule: How images are divided.
        cache_folder: Folder of the index and the plans.
    """

    base: Path
    index_file: Path | None
    pixel_path: PixelPath
    rule: SplitRule
    split_file: Path | None
    format_audit: FormatAudit
    duplicates: Duplicates
    cache_folder: Path
    groups: str | None = None
    train_where: TrainWhere | None = None

    def __post_init__(self) -> None:
        check_groups(self.groups)
        for name, choices in (("format_audit", get_args(FormatAudit)), ("duplicates", get_args(Duplicates))):
            if getattr(self, name) not in choices:
                raise ValueError(f"{name} is {getattr(self, name)!r}; expected one of {', '.join(choices)}")

    @property
    def problems_file(self) -> Path:
        """Where the process that prepares the data leaves its problems for the others."""
        return self.plan_file.with_suffix(".problems.txt")

    @property
    def left_out_file(self) -> Path:
        """Where all files stand that are no images, or that are reached twice."""
        return self.plan_file.with_suffix(".left_out.jsonl")

    @property
    def plan_file(self) -> Path:
        """Where the plan of these settings lies."""
        text = json.dumps([INDEX_VERSION, asdict(self)], default=str, sort_keys=True)
        return self.cache_folder / f"plan-{hashlib.blake2b(text.encode(), digest_size=8).hexdigest()}.parquet"


@dataclass(frozen=True)
class Plan:
    """A data set ready to be read.

    Attributes:
        rows: Table with ``path``, ``source``, ``split``, ``content`` (content id of the file's pixels), ``final``
            (after the pixel path), ``group`` ("" for an image alone); with ``train_where`` also ``semantic``, what the
            image shows; ordered by path.
        sources: Names of the labelled sources, sorted; a label is a position here.
        image_size: (H, W) after the pixel path.
        audit: What the format audit found of each attribute of the files that varies, best predictor first; None where
            it was off.
        training_files: Formats, modes and sizes of the training files and how many have each, most first.
    """

    rows: pd.DataFrame
    sources: list[str]
    image_size: tuple[int, int]
    notes: list[str] = field(default_factory=list)
    source_info: dict[str, dict[str, Any]] = field(default_factory=dict)
    groups: str = ""
    audit: list[Leak] | None = None
    training_files: dict[str, dict[str, int]] = field(default_factory=dict)

    def content_ids(self, split: str, of: Literal["final", "content"] = "final") -> Tensor:
        """The pictures of a split as a set (``common.content_ids``): int64, sorted, each once; no file is opened.

        They are the ``content_id`` of batches, pixels after the pixel path; or, with ``content``, those of the files,
        by which pictures are known again that another pixel path has changed.
        """
        return id_set(self.rows.loc[self.rows["split"] == split, of])

    def write(self, path: Path) -> None:
        """Write the plan, atomically."""
        head = {name: value for name, value in vars(self).items() if name != "rows"}
        head["audit"] = None if self.audit is None else [asdict(leak) for leak in self.audit]
        write_parquet(path, self.rows, {"plan": json.dumps(head, default=str)})

    @classmethod
    def read(cls, settings: PlanSettings) -> Plan:
        """Read a plan that another process wrote.

        Raises:
            GMDataError: The other process found these problems.
            FileNotFoundError: There is none, because the process that prepares the data reported problems or never ran.
        """
        path = settings.plan_file
        if settings.problems_file.is_file():
            raise GMDataError(settings.problems_file.read_text(encoding="utf-8"))
        if not path.is_file():
            raise FileNotFoundError(
                f"{path}: no plan of the data set. The process that prepares the data (rank 0) writes it, unless it "
                "finds problems: see its message; without a Trainer, call prepare_data() first; on several machines, "
                "each needs the data set, or a shared cache_dir"
            )
        table = read_parquet(path)
        head = json.loads(table.schema.metadata[b"plan"])
        head["image_size"] = tuple(head["image_size"])
        head["audit"] = None if head["audit"] is None else [Leak(**leak) for leak in head["audit"]]
        return cls(table.to_pandas(), **head)


def make_plan(settings: PlanSettings, workers: int | None = None) -> Plan:
    """Discover, look at every new file, check, split and audit; write the plan and, where named, the split file.

    ``workers`` processes decode; None for one per core.

    Raises:
        GMDataError: Everything that is wrong, in one message. No plan is left for these settings then.
        PlaceError: The cache folder or the split file cannot be written; known before the first image is decoded.
    """
    if settings.base.is_dir():  # else its absence is the problem to report
        check_folder(settings.cache_folder, "cache_dir (--data.init_args.cache_dir FOLDER)")
    if settings.split_file and not settings.split_file.exists():
        check_file(settings.split_file, "split_file (--data.init_args.split_file FILE)")
    problems = Problems(where=f"GM data set {path_text(settings.index_file or settings.base)}")
    with suppress(OSError):  # absent, or its folder is no folder
        settings.problems_file.unlink()
    try:
        plan = _make_plan(settings, workers, problems)
        problems.raise_if_any()
    except BaseException:
        with suppress(OSError):
            settings.plan_file.unlink()  # other processes must not go on with an earlier one
        if problems and settings.cache_folder.is_dir():
            write_text(settings.problems_file, problems.message())
        raise
    plan.write(settings.plan_file)
    if settings.split_file and not settings.split_file.exists():
        write_split_file(settings.split_file, plan.rows, settings.rule)
    return plan


def _make_plan(settings: PlanSettings, workers: int | None, problems: Problems) -> Plan:
    nothing = Plan(pd.DataFrame(columns=PLAN_COLUMNS), [], (0, 0))
    left_out: list[LeftOut] = []
    if settings.index_file is not None:
        column = None if settings.train_where is None else settings.train_where.column
        entries = read_index_file(settings.index_file, settings.base, problems, column)
    else:
        entries = discover_folders(settings.base, problems, left_out)
    if settings.split_file and settings.split_file.suffix.lower() not in SUFFIXES:
        problems.add(Kind.SPLIT_FILE, f"{settings.split_file} does not end with {' or '.join(SUFFIXES)}")
    if entries.empty:
        return nothing
    notes: list[str] = []
    if left_out:
        write_left_out(settings.left_out_file, left_out)
        notes.append(left_out_line(len(entries), left_out, settings.left_out_file))
    entries = assign_groups(entries, settings.groups, problems, notes)
    source_info = read_sources_yaml(settings.base, set(entries["source"]), problems)
    _check_sources(entries, problems)
    rows = build_index(entries, settings.base, settings.cache_folder, settings.pixel_path, workers)
    for path, problem, reason in rows.loc[rows["problem"] != "", ["path", "problem", "reason"]].to_numpy():
        problems.add(Kind[problem], f"{path}: {reason}")
    rows = rows[rows["problem"] == ""]
    if rows.empty:
        return nothing
    _check_sizes(rows, problems)
    labelled = rows[rows["role"] == "source"]
    audit: list[Leak] | None = None
    if settings.format_audit != "off" and labelled["source"].nunique() > 1:
        audit = _audit(labelled, settings, problems, notes)
    rows = drop_duplicates(join_copies(rows), settings.duplicates, problems, notes)
    for source in sorted(set(entries["source"]) - set(rows["source"])):
        problems.add(Kind.TOO_FEW, f"{source}: no usable image left")
    rows = rows.assign(split=_split(rows, settings, problems, notes))
    if settings.train_where is not None:
        rows = rows.assign(split=settings.train_where.choose(rows, rows["split"], settings.rule, problems, notes))
    _check_disjoint(rows, problems)
    sources = sorted(rows.loc[rows["role"] == "source", "source"].unique())
    size = (int(rows["height"].iloc[0]), int(rows["width"].iloc[0]))
    used = rows.loc[rows["split"] != "", [*PLAN_COLUMNS, *([SEMANTIC] if SEMANTIC in rows else [])]]
    used = used.reset_index(drop=True)
    if (rows["group"] == "").all() and (seems := looks_grouped(rows, settings.base, settings.pixel_path)):
        notes.append(seems)
    groups = describe_groups(used, settings.groups)
    training_files = describe_files(rows[rows["split"] == "train"])
    return Plan(used, [str(source) for source in sources], size, notes, source_info, groups, audit, training_files)


def _check_sources(entries: pd.DataFrame, problems: Problems) -> None:
    labelled = sorted(entries.loc[entries["role"] == "source", "source"].unique())
    if len(labelled) < 2:
        problems.add(Kind.ONE_SOURCE, f"{len(labelled)} ({', '.join(labelled) or 'only the manifold'})")
    if not (entries["role"] == "manifold").any() and not any(source.startswith("real-") for source in labelled):
        problems.add(Kind.NO_REAL, f"only {', '.join(labelled)}")


def _check_sizes(rows: pd.DataFrame, problems: Problems) -> None:
    sizes = rows.groupby(["width", "height"])
    if sizes.ngroups == 1:
        return
    usual = sizes.size().sort_values(kind="stable").index[-1]
    for (width, height), group in sizes:
        name, per_source = f"{width}x{height}", group["source"].value_counts().sort_index()
        where = ", ".join(f"{source} {count}" for source, count in per_source.items())
        examples = "" if (width, height) == usual else f"; first: {', '.join(group['path'].head(3))}"
        problems.add(Kind.MIXED_SIZES, f"{name} (width x height): {counted(len(group))} ({where}){examples}")


def _audit(labelled: pd.DataFrame, settings: PlanSettings, problems: Problems, notes: list[str]) -> list[Leak]:
    audit = audit_formats(labelled, settings.pixel_path)
    leaks = [leak for leak in audit if leak.leaks]
    if leaks and settings.format_audit == "error":
        problems.add(Kind.FORMAT_LEAK, describe(leaks))
    elif leaks:
        notes.append(
            "format audit: sources can be told apart without looking at the pixels; the accuracy may owe to this\n"
            + describe(leaks)
        )
    if history := lossy_history(labelled, settings.pixel_path):
        notes.append(
            f"reencode: {settings.pixel_path.reencode} gives all files one format, but what lossy compression did to "
            "the pixels before stays, and it differs between sources\n" + describe(history)
        )
    return audit


def _split(rows: pd.DataFrame, settings: PlanSettings, problems: Problems, notes: list[str]) -> pd.Series:
    given = rows["split"] != ""
    if settings.split_file and settings.split_file.exists():
        split = read_split_file(settings.split_file, rows, settings.rule, problems, notes)
        if given.any() and (split[given] != rows.loc[given, "split"]).any():
            problems.add(Kind.SPLIT_FILE, f"{settings.split_file} and the column split of {settings.index_file} differ")
        if Kind.SPLIT_FILE not in problems.found:
            check_given(rows.assign(split=split), settings.rule, problems)
        return split
    if given.any():
        check_given(rows, settings.rule, problems)
        return rows["split"]
    if rows["group"][rows["group"] != ""].duplicated().any():
        return draw_grouped_splits(rows, settings.rule, problems, notes)
    return draw_splits(rows, settings.rule, problems)


def _check_disjoint(rows: pd.DataFrame, problems: Problems) -> None:
    """Hold the promise however the splits came about: no picture or group in two splits, only reals in the manifold."""
    used = rows[rows["split"] != ""]
    named = used[used["group"] != ""]
    several = named.groupby("group")["split"].nunique()
    for name in several.index[several > 1]:
        group = named[named["group"] == name]
        problems.add(Kind.GROUP_SPLITS, f"group {name!r}: {_named(group.groupby('split').head(SHOWN_OF_A_GROUP))}")
    known = [where for kind in (Kind.DUPLICATE_SPLITS, Kind.MANIFOLD_OVERLAP) for where in problems.found.get(kind, [])]
    for column in ("content", "final"):
        straddling = used.groupby(column)["split"].nunique()
        for content in straddling.index[straddling > 1]:
            found = _named(used[used[column] == content])
            if found not in known:
                known.append(found)
                problems.add(Kind.DUPLICATE_SPLITS, found)
    real = used["source"].str.startswith(("real-", "manifold-"))
    for row in used[(used["split"] == "manifold") & ~real].itertuples():
        found = f"{row.path} of {row.source} has the split 'manifold'; only reals form the manifold"
        problems.add(Kind.SPLIT_FILE, found)
    for row in used[(used["split"] != "manifold") & used["source"].str.startswith("manifold-")].itertuples():
        found = f"{row.path} of {row.source} has the split {row.split!r}; it can only be 'manifold'"
        problems.add(Kind.SPLIT_FILE, found)


def _named(rows: pd.DataFrame) -> str:
    return ", ".join(f"{path} ({split})" for path, split in zip(rows["path"], rows["split"], strict=True))

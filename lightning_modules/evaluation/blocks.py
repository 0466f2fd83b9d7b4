"""An evaluation on disk: finished blocks, each one file, and what they belong to.

A block is a run of consecutive samples of one part of a test (`common.blocks`). Each is computed as one batch, so its
numbers do not depend on how many processes share the work. A finished block is written beside its place and renamed:
what lies there is whole, and is never computed again.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from filelock import FileLock, Timeout
from numpy.typing import NDArray
from torch import Tensor

from lightning_modules.common.blocks import Block, blocks_of, samples_of
from lightning_modules.common.files import atomic_file, remove_partials, write_text

FORMAT = 1
EVALUATION_FILE = "evaluation.json"
BLOCKS = "blocks"
RESULTS = ("metrics.json", "results.csv", "rows.jsonl", "report.html", "figures")
"""What is made from the blocks."""
ALONE: dict[str, Any] = {"sync_on_compute": False}
"""Of metrics that fold blocks: one process has them all, the others are elsewhere."""
_MOST_NAMED = 3  # differences between evaluations in a message
_LOCK = ".evaluation.lock"
_locks: dict[Path, FileLock] = {}  # held by this process, to its end


class EvaluationError(ValueError):
    """A folder that holds another evaluation, none, or an unfinished one."""


@dataclass(frozen=True)
class Evaluation:
    """What the blocks of a folder belong to, as `evaluation.json` says it.

    Attributes:
        kind: ``attribution`` or ``fingerprint``.
        settings: All that its numbers depend on, as plain values; their hash is the evaluation's identity.
        block_size: Samples of a block.
        parts: Samples of each part.
        conditions: `Condition.to_json` of each.
        report: What the report says of module, data and training; no number depends on it.
    """

    kind: str
    settings: Mapping[str, Any]
    block_size: int
    parts: Mapping[str, int]
    conditions: Sequence[Mapping[str, Any]]
    report: Mapping[str, Any]

    @property
    def identity(self) -> str:
        """Hash of what the numbers depend on."""
        return hashlib.sha256(json.dumps(self._dependences(), sort_keys=True).encode()).hexdigest()[:32]

    def _dependences(self) -> dict[str, Any]:
        mine = {"kind": self.kind, "block_size": self.block_size, "conditions": list(self.conditions)}
        return {**self.settings, **mine, **{f"images of {part}": count for part, count in self.parts.items()}}

    def to_json(self) -> dict[str, Any]:
        """The content of `evaluation.json`."""
        blocks = {part: len(blocks_of({part: count}, self.block_size)) for part, count in self.parts.items()}
        return {
            "format": FORMAT,
            "identity": self.identity,
            "kind": self.kind,
            "settings": dict(self.settings),
            "block_size": self.block_size,
            "parts": {part: {"images": count, "blocks": blocks[part]} for part, count in self.parts.items()},
            "conditions": list(self.conditions),
            "report": dict(self.report),
        }

    @classmethod
    def read(cls, folder: Path) -> Evaluation | None:
        """The evaluation of a run folder; None where it holds none.

        Raises:
            EvaluationError: one of another version, or a file that is none.
        """
        path = folder / EVALUATION_FILE
        if not path.is_file():
            return None
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
            if found["format"] != FORMAT:
                raise EvaluationError(f"{path}: found format {found['format']}, expected {FORMAT}; test again")
            parts = {part: int(entry["images"]) for part, entry in found["parts"].items()}
            names = ("kind", "settings", "block_size", "conditions", "report")
            return cls(parts=parts, **{name: found[name] for name in names})
        except (KeyError, TypeError, json.JSONDecodeError) as error:
            raise EvaluationError(f"{path}: found no evaluation that can be read ({error}); test again") from error

    def differences(self, other: Evaluation) -> list[str]:
        """What makes the identity of `other` another, in words; the first few differences."""
        if self.kind != other.kind:
            return [f"the test of {self.kind}s, now that of {other.kind}s"]
        mine, theirs = self._dependences(), other._dependences()
        names = [name for name in sorted({*mine, *theirs}) if mine.get(name) != theirs.get(name)]
        told = [f"{name} {_short(mine.get(name))}, now {_short(theirs.get(name))}" for name in names[:_MOST_NAMED]]
        return told + ([f"{len(names) - _MOST_NAMED} more"] if len(names) > _MOST_NAMED else [])


class EvaluationFolder:
    """The blocks of one evaluation in a run folder.

    Raises:
        EvaluationError: the folder holds no evaluation.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        evaluation = Evaluation.read(folder)
        if evaluation is None:
            raise EvaluationError(f"{folder}: found no {EVALUATION_FILE}, expected the folder of a test")
        self.evaluation = evaluation
        self.blocks = blocks_of(evaluation.parts, evaluation.block_size)

    @classmethod
    def begin(cls, folder: Path, evaluation: Evaluation, replace: bool = False) -> EvaluationFolder:
        """Begin an evaluation in a folder, or go on with the same one.

        Raises:
            EvaluationError: the folder holds another evaluation, which is not to be replaced; or another process
                evaluates in it.
        """
        _lock(folder)
        there = Evaluation.read(folder)
        if there is not None and there.identity != evaluation.identity:
            if not replace:
                found = "; ".join(there.differences(evaluation)) or "another evaluation"
                raise EvaluationError(
                    f"{folder} holds another evaluation: found {found}; name another "
                    f"{'file with --out' if evaluation.kind == 'prediction' else 'folder with --run_dir'}, or begin "
                    "anew in this one with --fresh true"
                )
            clear_evaluation(folder)
        if there is None:  # results without blocks are those of an earlier version
            clear_evaluation(folder)
        for part in evaluation.parts:
            (folder / BLOCKS / part).mkdir(parents=True, exist_ok=True)
            remove_partials(folder / BLOCKS / part)
        write_text(folder / EVALUATION_FILE, json.dumps(evaluation.to_json(), indent=2, ensure_ascii=False) + "\n")
        return cls(folder)

    def path(self, block: Block) -> Path:
        """Where a block lies once it is finished."""
        return self.folder / BLOCKS / block[0] / f"{block[1]:07d}.parquet"

    def missing(self) -> list[Block]:
        """Blocks that are not finished, in order."""
        there = {part: {path.name for path in (self.folder / BLOCKS / part).glob("*.parquet")} for part in self.parts}
        return [block for block in self.blocks if self.path(block).name not in there[block[0]]]

    @property
    def parts(self) -> Mapping[str, int]:
        """Samples of each part."""
        return self.evaluation.parts

    def commit(self, block: Block, columns: Mapping[str, pa.Array]) -> None:
        """Write a finished block, one row a sample."""
        table = pa.table(dict(columns))
        expected = len(samples_of(block[1], self.parts[block[0]], self.evaluation.block_size))
        if table.num_rows != expected:
            raise RuntimeError(f"found {table.num_rows} samples in block {block}, expected {expected}")
        with atomic_file(self.path(block)) as partial:
            pq.write_table(table, partial, compression="zstd")

    def read(self, part: str, columns: Sequence[str] | None = None, rows: int = 4096) -> Iterator[pa.Table]:
        """Finished blocks of a part in order, put together to tables of about so many rows.

        Raises:
            EvaluationError: a file that cannot be read.
        """
        gathered: list[pa.Table] = []
        for block in self.blocks:
            if block[0] != part or not self.path(block).is_file():
                continue
            try:
                gathered.append(pq.read_table(self.path(block), columns=None if columns is None else list(columns)))
            except (OSError, pa.ArrowException) as error:
                raise EvaluationError(
                    f"{self.path(block)} cannot be read ({error}); remove it and give the command of the test again"
                ) from error
            if sum(table.num_rows for table in gathered) >= rows:
                yield pa.concat_tables(gathered)
                gathered = []
        if gathered:
            yield pa.concat_tables(gathered)

    def has_column(self, part: str, name: str) -> bool:
        """Whether the blocks of a part have a column."""
        first = next((self.path(block) for block in self.blocks if block[0] == part), None)
        return first is not None and first.is_file() and name in pq.read_schema(first).names

    def require_whole(self) -> None:
        """Refuse, by an EvaluationError, to make results of an unfinished evaluation."""
        if missing := self.missing():
            done = len(self.blocks) - len(missing)
            raise EvaluationError(
                f"{self.folder}: found {done:,} of {len(self.blocks):,} blocks; give the command of the test again to "
                "finish it. On several machines the run folder has to lie on a file system that all of them share"
            )


def _lock(folder: Path) -> None:
    place = folder.resolve() / _LOCK
    if place in _locks:
        return
    place.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(place)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise EvaluationError(
            f"{folder}: another process evaluates in this folder; wait for it, or name another one with --run_dir"
        ) from None
    _locks[place] = lock


def clear_evaluation(folder: Path) -> None:
    """Remove an evaluation and its results from a run folder."""
    for name in (EVALUATION_FILE, *RESULTS, BLOCKS):
        path = folder / name
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


# --- columns ---------------------------------------------------------------------------------------------------------


def matrix(values: Tensor) -> pa.Array:
    """A column whose entry for a sample is a row of `values` `(n, k)`, or a scalar of `(n,)`."""
    array = values.detach().cpu().numpy()
    if array.ndim == 1:
        return pa.array(array)
    return pa.FixedSizeListArray.from_arrays(pa.array(np.ascontiguousarray(array).reshape(-1)), array.shape[1])


def read_matrix(table: pa.Table, name: str) -> Tensor:
    """The inverse of `matrix`."""
    column = table[name].combine_chunks()
    if isinstance(column, pa.ChunkedArray):
        column = pa.concat_arrays(column.chunks)
    if not pa.types.is_fixed_size_list(column.type):
        return torch.from_numpy(column.to_numpy(zero_copy_only=False).copy())
    flat: NDArray[Any] = column.flatten().to_numpy(zero_copy_only=False)
    return torch.from_numpy(flat.reshape(-1, column.type.list_size).copy())


def some_rows(values: Tensor | None, chosen: NDArray[np.bool_]) -> pa.Array:
    """A column with rows of `values` `(k, d)` for the k chosen samples, and nothing for the others."""
    rows = iter([] if values is None else values.detach().cpu().numpy())
    return pa.array([next(rows) if take else None for take in chosen], type=pa.list_(pa.float32()))


def read_some_rows(table: pa.Table, name: str) -> Tensor | None:
    """The rows of `some_rows` `(k, d)`, without the others; None where there is none."""
    column = table[name].drop_null().combine_chunks()
    if isinstance(column, pa.ChunkedArray):
        column = pa.concat_arrays(column.chunks) if column.num_chunks else pa.array([], column.type)
    if not len(column):
        return None
    flat: NDArray[np.float32] = column.flatten().to_numpy(zero_copy_only=False)
    return torch.from_numpy(flat.reshape(len(column), -1).copy())


def require_finite(what: str, values: Tensor, names: Sequence[Any], cure: str) -> None:
    """Refuse numbers that are none, of samples called `names`, before anything is made of them.

    Raises:
        ValueError: says of which samples, and what to look at.
    """
    bad = ~values.detach().isfinite().flatten(1).all(dim=1)
    if bool(bad.any()):
        which = [str(names[place]) for place in bad.nonzero()[:, 0].tolist()]
        raise ValueError(
            f"found {what} that are not finite (NaN or infinity) for {len(which)} of {len(values)} images of a batch: "
            f"{', '.join(which[:3])}{' ...' if len(which) > 3 else ''}; {cure}"
        )


def _short(value: Any) -> str:
    text = "nothing" if value is None else json.dumps(value, default=str)
    return text if len(text) <= 80 else f"{text[:77]}..."

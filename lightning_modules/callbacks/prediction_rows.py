"""What `predict` says of each image, as JSON lines: its source, or the user whose key it may carry."""

from __future__ import annotations

import json
import math
import shutil
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar

import pyarrow as pa
import pyarrow.parquet as pq
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback
from torch import Tensor

from lightning_modules.callbacks.evaluation_run import tell_missing
from lightning_modules.callbacks.verdict_summary import count_of, summarise
from lightning_modules.common.blocks import Block
from lightning_modules.common.files import atomic_file
from lightning_modules.evaluation.answers import verdict_over_set
from lightning_modules.evaluation.blocks import Evaluation, EvaluationFolder, clear_evaluation, matrix, read_matrix
from lightning_modules.evaluation.predictions import Verdicts
from lightning_modules.fingerprints.decoders.base import KeyEstimate
from lightning_modules.fingerprints.users.key_registry import KeyRegistry
from lightning_modules.fingerprints.users.keys import key_to_text
from lightning_modules.fingerprints.users.verdicts import Verdict, attribute, combine
from lightning_modules.metrics.set_test import SetVerdict


class BlockRows(Callback):
    """Commits what a `predict` finds block by block, and writes one row an image into the file `out` at the end.

    Finished blocks lie in `<out>.blocks` beside it, for their owner alone, until `out` is written: the same command
    goes on from them. Rows of all images up to the first unfinished block can be read in `<out>.partial` meanwhile. An
    image that could not be used has a row with the column `answer` null, and the reason.

    Args:
        out: the file to write.
        identity: all that what is found depends on, beside the files, as plain values.
        fresh: whether blocks that are there are removed first.
    """

    answer: ClassVar[str]

    def __init__(self, out: Path, identity: Mapping[str, Any], fresh: bool = False) -> None:
        self.out, self.identity, self.fresh = out, dict(identity), fresh
        self.folder = out.with_name(f"{out.name}.blocks")
        self.partial = out.with_name(f"{out.name}.partial")
        self.summary = ""
        """What to tell a person, once all is written; on the first process only."""

    def unfinished_blocks(self, trainer: pl.Trainer, files: str, parts: dict[str, int], size: int) -> list[Block]:
        """The blocks left to do, the same on every process; `files` is the hash of the files.

        Raises:
            EvaluationError: the blocks of another `predict` are there.
        """
        missing: list[Block] = []
        if trainer.is_global_zero:
            self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            if self.fresh:
                clear_evaluation(self.folder)
            asked = Evaluation("prediction", {**self.identity, "files": files}, size, parts, [], {})
            self.store = EvaluationFolder.begin(self.folder, asked)
            missing = tell_missing(self.store)
            self._written = 0
            self._begin_partial()
        return trainer.strategy.broadcast(missing)

    def on_predict_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, *position: Any, **named: Any
    ) -> None:
        """Commit the block; the first process makes rows of what follows those that it has written."""
        if batch["part"]:
            columns = {name: matrix(value) for name, value in outputs.items() if isinstance(value, Tensor)}
            texts = {name: value for name, value in outputs.items() if isinstance(value, list)}
            columns |= {name: pa.array(value, type=pa.large_string()) for name, value in texts.items()}
            EvaluationFolder(self.folder).commit((batch["part"], batch["block"]), columns)
        if trainer.is_global_zero:
            self._extend_partial(pl_module)

    def _begin_partial(self) -> None:
        self.partial.unlink(missing_ok=True)
        self.partial.touch(mode=0o600)

    def _extend_partial(self, module: Any) -> None:
        lines = []
        while self._written < len(self.store.blocks):
            path = self.store.path(self.store.blocks[self._written])
            if not path.is_file():
                break
            lines += [_line(row) for _, row in self.rows(pq.read_table(path), module)]
            self._written += 1
        if lines:
            with self.partial.open("a", encoding="utf-8") as file:
                file.write("".join(lines))

    def on_predict_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """The first process writes all rows in the order of the files."""
        trainer.strategy.barrier("predictions")
        if not trainer.is_global_zero:
            return
        self.store.require_whole()
        skipped = iter([*skipped_rows(trainer, self.answer), None])
        following = next(skipped)

        def lines() -> Iterator[str]:
            nonlocal following
            for table in self.store.read("predict"):
                for index, row in self.rows(table, pl_module):
                    while following is not None and following["index"] < index:
                        yield _line({name: following[name] for name in following if name != "index"})
                        following = next(skipped)
                    yield _line(row)
            while following is not None:
                yield _line({name: following[name] for name in following if name != "index"})
                following = next(skipped)
            yield from map(_line, self.last_rows(trainer))

        with atomic_file(self.out, self.private) as partial, partial.open("w", encoding="utf-8") as file:
            file.writelines(lines())
        self.partial.unlink(missing_ok=True)
        shutil.rmtree(self.folder)

    private = False

    def rows(self, table: pa.Table, module: Any) -> Iterator[tuple[int, dict[str, Any]]]:
        """The place among all files and the row of each image of finished blocks."""
        raise NotImplementedError

    def last_rows(self, trainer: pl.Trainer) -> list[dict[str, Any]]:
        """Rows after those of the images."""
        return []


def _line(row: Mapping[str, Any]) -> str:
    return json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n"


class PredictionRows(BlockRows):
    """The source of each image: `file`, `predicted`, `probabilities` by source, `distance`, `content_id`.

    `generated`, `unknown` and `enrolled` are those of `evaluation.predictions.Verdicts`. `training_image` is true where
    the picture is one of those that trained the attributor.

    Args:
        out: As in `BlockRows`.
        identity: Likewise.
        fresh: Likewise.
        as_set: Whether a last row `{"set": true, "files": n, ...}` tells the verdict over all images, which are then
            taken to come from one source (`metrics.set_test.set_verdict`).
    """

    answer = "predicted"

    def __init__(self, out: Path, identity: Mapping[str, Any], fresh: bool = False, as_set: bool = False) -> None:
        super().__init__(out, identity, fresh)
        self.as_set = as_set
        self._module: Any = None
        self._named: Counter[str] = Counter()
        self._trained = self._unknown = 0
        self._told = ""

    def on_predict_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """See `BlockRows`; then what to tell a person."""
        self._named, self._trained = Counter(), 0  # rows of unfinished predictions have been counted before
        self._unknown, self._module, self._told = 0, pl_module, ""
        super().on_predict_end(trainer, pl_module)
        if trainer.is_global_zero:
            lines = [f"{count_of(self._named.total(), 'file')}:"]
            lines += [f"  {source}: {number}" for source, number in self._named.most_common()]
            if self._unknown:
                lines.append(f"{count_of(self._unknown, 'file')} unlike those of every trained source")
            if self._trained:
                lines.append(f"{count_of(self._trained, 'file')} of them trained the attributor")
            lines += [self._told] if self._told else []
            self.summary = "\n".join(lines)

    def rows(self, table: pa.Table, module: Any) -> Iterator[tuple[int, dict[str, Any]]]:
        """See `BlockRows`."""
        columns = {name: read_matrix(table, name) for name in table.column_names if name != "path"}
        seen = columns.pop("training_image", torch.zeros(table.num_rows, dtype=torch.bool)).tolist()
        columns["path"] = table["path"].to_pylist()
        verdicts = Verdicts(module.reference, module.sources).rows(table)
        for row, verdict, trained in zip(rows_of(columns, module.sources), verdicts, seen, strict=True):
            index, content = row.pop("index"), row.pop("content_id")
            self._named[row["predicted"]] += 1
            self._trained += trained
            self._unknown += verdict["unknown"] is True
            row |= {**verdict, "content_id": content}
            yield index, row | ({"training_image": True} if trained else {})

    def last_rows(self, trainer: pl.Trainer) -> list[dict[str, Any]]:
        """The verdict over all images together, where it is asked for."""
        if not self.as_set:
            return []
        columns = ("logits", "unlike")
        tables = list(self.store.read("predict", columns))
        logits, unlike = (torch.cat([read_matrix(table, name) for table in tables]) for name in columns)
        found = verdict_over_set(self._module.reference, logits, unlike, self._module.sources)
        if found is None:
            reason = "the checkpoint holds no validation images of every source; train with a val_fraction above 0"
            self._told = f"no verdict over the set: {reason}"
            return [{"set": True, "files": len(logits), "predicted": None, "reason": reason}]
        self._told = set_sentence(found, len(logits))
        return [{"set": True, "files": len(logits), **set_row(found)}]


def set_row(verdict: SetVerdict) -> dict[str, Any]:
    """A verdict over a set as the columns of a row."""
    return {
        "predicted": verdict.named,
        "log_probabilities": verdict.log_probabilities,
        "p_values": verdict.p_values,
        "p_none_of_these": verdict.none_of_these,
        "p_others": verdict.others,
        "not_refused": verdict.not_refused,
    }


def set_sentence(verdict: SetVerdict, files: int) -> str:
    """What a verdict says, for people."""
    together = f"taken together, the {count_of(files, 'file')}"
    none = f"p = {verdict.none_of_these:.2g} that they come from any trained source"
    if verdict.named is None:
        possible = f"; not refused: {', '.join(verdict.not_refused)}" if verdict.not_refused else ""
        return f"{together}: no source is named ({none}{possible})"
    other = "" if verdict.others is None else f", p = {verdict.others:.2g} that they come from another trained one"
    return f"{together}: {verdict.named} ({none}{other})"


def rows_of(outputs: dict[str, Any], sources: list[str]) -> list[dict[str, Any]]:
    """Rows of one batch of an attributor's test or predict step.

    Args:
        outputs: Columns: ``index``, ``path``, ``content_id``, ``probabilities`` (N, K); ``label`` and ``distance`` (N,)
            where there are any.
        sources: Names of the K sources.

    Returns:
        One dict an image: ``index``, ``file``, ``source`` (if labelled), ``predicted``, ``probabilities`` (a dict by
        source), ``distance`` to the manifold in the embedding's units (if searched), ``content_id`` in hex.
    """
    columns = {key: value.tolist() if isinstance(value, Tensor) else value for key, value in outputs.items()}
    rows = []
    for position, probabilities in enumerate(columns["probabilities"]):
        row: dict[str, Any] = {"index": columns["index"][position], "file": columns["path"][position]}
        if "label" in columns:
            row["source"] = sources[columns["label"][position]]
        row["predicted"] = sources[max(range(len(sources)), key=probabilities.__getitem__)]
        row["probabilities"] = dict(zip(sources, probabilities, strict=True))
        if "distance" in columns:
            row["distance"] = columns["distance"][position]
        row["content_id"] = f"{columns['content_id'][position]:016x}"
        rows.append(row)
    return rows


def skipped_rows(trainer: pl.Trainer, answer: str) -> list[dict[str, Any]]:
    """Rows of the images that a `predict` could not use (`skipped` of its datamodule); the column `answer` is null."""
    skipped = getattr(getattr(trainer, "datamodule", None), "skipped", [])
    return [{"index": item["index"], "file": item["path"], answer: None, "reason": item["reason"]} for item in skipped]


class VerdictRows(BlockRows):
    """Compares decoded keys with a registry when all images are done; writes one row an image, in order of the files.

    A row holds `file`, `content_id` (hex), `bits_matching` and `bits` (the length of a key), `best_user` (of several
    equally good ones the first registered, and then no verdict), `p_value` (chance that a random key agrees as well
    with the log odds of the decoded bits as that user's), `family_p_value` (that any of so many random keys does, by
    Bonferroni), `verdict` (the user's name, or null), `false_positive_rate`, `confidence` (mean probability of the
    decoded bits, in [0.5, 1], as good as the decoder's calibration), where the decoder minimises one, `loss`, and
    `resized_from`, `<width>x<height>`, of an image that had another size than the generator's. An image that shows
    nothing, or nothing that the generator draws (`fingerprints.abstention`), has no verdict whatever its p-value, and a
    `reason` that begins with "abstained". One that could not be used has the row `{"file", "verdict": null, "reason"}`.
    Neither plays a part in a verdict over all.

    Decoded bits are left out unless asked for. They are nobody's secret in themselves, but where the verdict is right
    they are a user's key, or close to it: a file with them can be read by its owner alone.

    Args:
        out: the file to write.
        registry: users and their keys.
        false_positive_rate: largest chance of naming anybody for one image without key, over all users together; each
            image is tested by itself, and the images combined are one test more.
        combined: whether a last row `{"combined": true, "files": n, ...}` tells the verdict over all images together,
            which are then taken to carry one key.
        show_bits: whether rows hold the bits, as `decoded_bits` in hexadecimal.
        identity: as in `BlockRows`.
        fresh: likewise.
    """

    answer = "verdict"

    def __init__(
        self,
        out: Path,
        registry: KeyRegistry,
        false_positive_rate: float = 1e-6,
        combined: bool = False,
        show_bits: bool = False,
        identity: Mapping[str, Any] | None = None,
        fresh: bool = False,
    ) -> None:
        super().__init__(out, identity or {}, fresh)
        self.false_positive_rate, self.combined, self.show_bits = false_positive_rate, combined, show_bits
        self.names, self.keys = registry.names, registry.packed
        self.private = show_bits
        self._told: list[dict[str, Any]] = []
        self._fitted: dict[str, str] = {}
        self._together: list[dict[str, Any]] = []

    def rows(self, table: pa.Table, module: Any) -> Iterator[tuple[int, dict[str, Any]]]:
        """See `BlockRows`."""
        logits, losses = read_matrix(table, "logits").double(), read_matrix(table, "loss").tolist()
        places, identifiers = table["index"].to_pylist(), table["content_id"].to_pylist()
        reasons, readings = _reasons(table), _readings(table, logits.shape[1])
        for position, file in enumerate(table["path"].to_pylist()):
            row = {
                "file": file,
                "content_id": f"{identifiers[position]:016x}",
                **self._compare(logits[position], readings[position]),
            }
            if math.isfinite(losses[position]):
                row["loss"] = losses[position]
            if (size := self._fitted.get(file)) is not None:
                row["resized_from"] = size
            if reasons[position]:
                row |= {"verdict": None, "reason": reasons[position]}
            self._told.append({name: row.get(name) for name in ("verdict", "bits", "false_positive_rate", "reason")})
            yield places[position], row

    def on_predict_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """See `BlockRows`; then what to tell a person."""
        self._told = []  # rows of unfinished predictions have been told before
        self._fitted = getattr(getattr(trainer, "datamodule", None), "fitted", {})
        super().on_predict_end(trainer, pl_module)
        if trainer.is_global_zero:
            skipped = len(skipped_rows(trainer, self.answer))
            self.summary = summarise(self._told, self._together, len(self.names), skipped)

    def last_rows(self, trainer: pl.Trainer) -> list[dict[str, Any]]:
        """The verdict over all images together, where it is asked for."""
        if self.combined:
            parts, seen = [], []
            for table in self.store.read("predict"):
                taken = torch.tensor([not reason for reason in _reasons(table)], dtype=torch.bool)
                parts.append(read_matrix(table, "logits")[taken])
                seen.append(_readings(table, parts[-1].shape[1])[taken])
            logits, readings = torch.cat(parts).double(), torch.cat(seen)
            found = {"combined": True, "files": len(logits)}
            if len(logits):
                self._together = [found | self._compare(logits, readings)]
            else:
                self._together = [found | {"verdict": None, "reason": "abstained: on every image"}]
        return self._together

    def _compare(self, logits: Tensor, readings: Tensor) -> dict[str, Any]:
        """Verdict on one image's logits `(m,)`, or on those of several that carry one key, `(n, m)`.

        Readings are `(r, m)` or `(n, r, m)`. Logits are the decoder's answers, each of the reading that it chose;
        several images are read like that, or all put back in one way.
        """
        verdict = attribute(logits, self.names, self.keys, self.false_positive_rate, readings.movedim(-2, 0))
        row = verdict_row(verdict)
        total = combine(logits.reshape(-1, logits.shape[-1]))
        row["confidence"] = float(KeyEstimate(total, torch.empty(0)).confidence.mean())
        return row | ({"decoded_bits": key_to_text(total > 0)} if self.show_bits else {})


def _reasons(table: pa.Table) -> list[str]:
    """Why there is no verdict on the images of a table; "" where there is one."""
    return table["reason"].to_pylist() if "reason" in table.column_names else [""] * table.num_rows


def _readings(table: pa.Table, bits: int) -> Tensor:
    """Log odds of a table's images by reading, float64 `(n, r, m)`; r is 0 where the answer stands alone."""
    if "readings" not in table.column_names:
        return torch.empty(table.num_rows, 0, bits, dtype=torch.float64)
    return read_matrix(table, "readings").double().view(table.num_rows, -1, bits)


def verdict_row(verdict: Verdict) -> dict[str, Any]:
    """A verdict as the columns of a row; no bit of a key is in it."""
    columns = {"matching_bits": "bits_matching", "user": "verdict"}
    order = ("matching_bits", "bits", "best_user", "p_value", "family_p_value", "user", "false_positive_rate")
    return {columns.get(name, name): getattr(verdict, name) for name in order}

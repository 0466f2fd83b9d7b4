"""What `predict` says of each image, as JSON lines: its source, or the user whose key it may carry."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback
from torch import Tensor

from lightning_modules.common.distributed import gather_rows
from lightning_modules.common.files import write_bytes
from lightning_modules.fingerprints.decoders.base import KeyEstimate
from lightning_modules.fingerprints.users.key_registry import KeyRegistry
from lightning_modules.fingerprints.users.keys import key_to_text
from lightning_modules.fingerprints.users.verdicts import Verdict, attribute, bits_needed, combine
from lightning_modules.reporting.run_files import write_jsonl


class PredictionRows(Callback):
    """Writes one row an image into the file `out`, in the order of the files, when all images are done.

    An image that could not be used has the row `{"file", "predicted": null, "reason"}`.
    """

    def __init__(self, out: Path) -> None:
        self.out = out
        self.rows: list[dict[str, Any]] = []

    def on_predict_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, *position: Any, **named: Any
    ) -> None:
        """Keep the batch's rows."""
        self.rows.extend(rows_of(outputs, pl_module.sources))  # type: ignore[arg-type]

    def on_predict_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Gather from all processes; the first one writes."""
        rows = gather_rows(self.rows) + skipped_rows(trainer, "predicted")
        rows.sort(key=lambda row: row["index"])
        if trainer.is_global_zero:
            write_jsonl(self.out, ({key: row[key] for key in row if key != "index"} for row in rows))
        self.rows = []


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


SHOWN_USERS = 10


class VerdictRows(Callback):
    """Compares decoded keys with a registry when all images are done; writes one row an image, in order of the files.

    A row holds `file`, `content_id` (hex), `bits_matching` and `bits` (the length of a key), `best_user` (of several
    equally good ones the first registered, and then no verdict), `p_value` (chance of so good a match with that user
    alone), `family_p_value` (with any user, by Bonferroni), `verdict` (the user's name, or null),
    `false_positive_rate`, `confidence` (mean probability of the decoded bits, in [0.5, 1], as good as the decoder's
    calibration) and, where the decoder minimises one, `loss`. An image that could not be used has the row `{"file",
    "verdict": null, "reason"}` and plays no part in a verdict over all.

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
    """

    def __init__(
        self,
        out: Path,
        registry: KeyRegistry,
        false_positive_rate: float = 1e-6,
        combined: bool = False,
        show_bits: bool = False,
    ) -> None:
        self.out = out
        self.false_positive_rate, self.combined, self.show_bits = false_positive_rate, combined, show_bits
        self.names, self.keys = registry.names, registry.keys
        self.decoded: list[dict[str, Any]] = []
        self.summary = ""
        """What to tell a person, once all is written; on the first process only."""

    def on_predict_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, *position: Any, **named: Any
    ) -> None:
        """Keep the batch's evidence: `index`, `path`, `content_id`, `logits` (n, m) and `loss` (n,)."""
        names = ("index", "path", "content_id", "logits", "loss")
        columns = [value.tolist() if isinstance(value := outputs[name], Tensor) else value for name in names]
        self.decoded += [dict(zip(names, row, strict=True)) for row in zip(*columns, strict=True)]

    def on_predict_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Gather from all processes; the first one compares and writes."""
        decoded = gather_rows(self.decoded)
        self.decoded = []
        if not trainer.is_global_zero:
            return
        logits = torch.tensor([row["logits"] for row in decoded], dtype=torch.float64)  # (n, m)
        logits = logits.nan_to_num(nan=0.0)  # no evidence, rather than no verdict on all images together
        rows = [
            {"file": row["path"], "content_id": f"{row['content_id']:016x}", **self._compare(evidence)}
            | ({"loss": row["loss"]} if math.isfinite(row["loss"]) else {})
            for row, evidence in zip(decoded, logits, strict=True)
        ]
        together = [{"combined": True, "files": len(rows), **self._compare(logits)}] if self.combined else []
        skipped = skipped_rows(trainer, "verdict")
        places = [row["index"] for row in decoded] + [row.pop("index") for row in skipped]
        in_order = [row for _, row in sorted(zip(places, [*rows, *skipped], strict=True), key=lambda pair: pair[0])]
        self._write([*in_order, *together])
        self.summary = summarise(rows, together, len(self.names), len(skipped))

    def _compare(self, logits: Tensor) -> dict[str, Any]:
        """Verdict on one image's logits `(m,)`, or on those of several that carry one key, `(n, m)`."""
        together = logits.reshape(-1, logits.shape[-1])
        bits = combine(together)
        total = together.sum(dim=0)
        row = verdict_row(attribute(bits, self.names, self.keys, self.false_positive_rate))
        row["confidence"] = float(KeyEstimate(total, torch.empty(0)).confidence.mean())
        return row | ({"decoded_bits": key_to_text(bits)} if self.show_bits else {})

    def _write(self, rows: list[dict[str, Any]]) -> None:
        if not self.show_bits:
            write_jsonl(self.out, rows)
            return
        self.out.parent.mkdir(parents=True, exist_ok=True)
        lines = "".join(json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n" for row in rows)
        write_bytes(self.out, lines.encode(), private=True)


def verdict_row(verdict: Verdict) -> dict[str, Any]:
    """A verdict as the columns of a row; no bit of a key is in it."""
    columns = {"matching_bits": "bits_matching", "user": "verdict"}
    order = ("matching_bits", "bits", "best_user", "p_value", "family_p_value", "user", "false_positive_rate")
    return {columns.get(name, name): getattr(verdict, name) for name in order}


def summarise(rows: Sequence[dict[str, Any]], together: Sequence[dict[str, Any]], users: int, skipped: int = 0) -> str:
    """What the rows say, for people, in a few lines: how many images go to whom, and how many to nobody.

    `rows` has one or more images, `together` the combined row or none; so many images more were `skipped`.
    """
    bits, rate = rows[0]["bits"], rows[0]["false_positive_rate"]
    needed = bits_needed(bits, rate, users)
    enough = f"{needed} of {bits} bits must match" if needed is not None else f"no match of {bits} bits is enough"
    named = Counter(row["verdict"] for row in rows if row["verdict"] is not None)
    lines = [
        f"{_count(len(rows), 'file')}: {named.total()} attributed, {len(rows) - named.total()} abstained "
        f"({_count(users, 'user')}, false-positive rate {rate:g} an image: {enough})"
    ]
    if skipped:
        lines.append(f"{_count(skipped, 'file')} more could not be used, each row says why")
    lines += [f"  {user}: {number}" for user, number in named.most_common(SHOWN_USERS)]
    if len(named) > SHOWN_USERS:
        lines.append(f"  and {len(named) - SHOWN_USERS} more")
    for row in together:
        who = row["verdict"] or f"nobody (closest: {row['best_user']})"
        lines.append(
            f"all together: {who}, {row['bits_matching']} of {bits} bits match, p-value {row['p_value']:.2g}, over all "
            f"users {row['family_p_value']:.2g}"
        )
    return "\n".join(lines)


def _count(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"

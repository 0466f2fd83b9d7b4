"""Run folders as a test leaves them, with plausible numbers that agree with their rows."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from scipy.stats import binom

from lightning_modules.attacks.curves import CURVES
from lightning_modules.metrics.intervals import Estimate, bits_needed, proportion, student_half_width, wilson
from lightning_modules.reporting.long_table import Result, results_csv
from lightning_modules.reporting.run_files import write_json, write_jsonl, write_metrics

BITS = 32
KINDS = ("noise", "blur", "jpeg", "combination")
SOURCES = ("gan-a", "real-x", "score-c", "vae-b")
COMMIT = "0123456789abcdef0123456789abcdef01234567"
HASHES = {
    name: {"hash": f"{digit}" * 64, "path": f"/data/{name}"} for digit, name in enumerate(("checkpoint", "data"), 1)
}


def conditions(kinds: Sequence[str] = KINDS, seed: int = 0) -> list[dict[str, Any]]:
    """Clean, a preset, and the grids of these kinds, as `evaluation.json` lists them."""
    listed: list[dict[str, Any]] = [{"name": "clean", "kind": "clean", "strength": None, "seed": seed}]
    listed.append({"name": "paper-noise", "kind": "noise", "strength": None, "seed": seed})
    for kind in kinds:
        for strength in CURVES[kind].strengths:
            name = f"{kind}_{strength}"
            listed.append({"name": name, "kind": kind, "strength": float(strength), "seed": seed})
    return listed


def severity(condition: dict[str, Any]) -> float:
    """How much of an image a condition takes, 0 to 1."""
    kind, strength = condition["kind"], condition["strength"]
    if kind == "clean":
        return 0.0
    if strength is None:
        return 0.4
    numbers = [float(number) for number in CURVES[kind].strengths]
    share = strength / max(numbers)
    return 1 - share if CURVES[kind].weaker_is_larger else share


def fingerprint_run(
    folder: Path,
    *,
    seed: int = 0,
    decoder: str = "amortised",
    skill: float = 0.96,
    robustness: float = 1.0,
    images: int = 200,
    kinds: Sequence[str] = KINDS,
    machine: dict[str, Any] | None = None,
    attack_seed: int | None = None,
    experiment: str = "",
    with_rows: bool = True,
    fid: bool = True,
    by_bits: bool = False,
) -> Path:
    """A finished test of a fingerprint: bits of each image drawn from a hardness of its own, the same for all runs.

    Its evidence weighs all bits alike; `by_bits` leaves what an earlier version did, which knew no p-values.
    """
    listed = conditions(kinds, seed if attack_seed is None else attack_seed)
    hardness = np.random.default_rng([seed, 1]).normal(0, 0.03, images)
    metrics: dict[str, Estimate] = {}
    table: list[Result] = []
    rows: list[dict[str, Any]] = [{"index": index, "matching_bits": {}, "p_value": {}} for index in range(images)]
    for number, condition in enumerate(listed):
        name = condition["name"]
        rate = np.clip(skill - 0.45 * severity(condition) / robustness + hardness, 0.5, 1.0)
        rng = np.random.default_rng([seed, number, sum(decoder.encode())])
        counts = rng.binomial(BITS, rate)
        for row, count in zip(rows, counts.tolist(), strict=True):
            row["matching_bits"][name] = count
            row["p_value"][name] = float(binom.sf(count - 1, BITS, 0.5))
        needed = bits_needed(BITS, 1e-6) or BITS + 1
        positive = proportion(int((counts >= needed).sum()), images, bits=BITS, bits_needed=needed)
        found = {
            "bit_accuracy": _mean(counts / BITS, {"bits": BITS}),
            "attribution_accuracy": proportion(int((counts == BITS).sum()), images, bits=BITS),
            "tpr_at_1e-6": positive,
        }
        if not by_bits:
            details = {"bits": BITS, "false_positive_rate": 1e-6, "within_reach": True}
            found["tpr_at_1e-6"] = replace(positive, details=details)
        if fid:
            value = 3.0 + 40 * severity(condition) + 2 * (1 - skill) + 0.3 * math.sin(number + seed)
            found["fid"] = Estimate(value, None, None, images, "none", {"n_real": images, "n_fake": images, "d": 64})
        for metric, estimate in found.items():
            part = "quality" if metric == "fid" else "marked"
            metrics[f"test/{name}/{metric}"] = estimate
            table.append(_result(part, condition, metric, estimate))
    if by_bits:
        for row in rows:
            del row["p_value"]
    model = {
        "class_path": "lightning_modules.latent_fingerprint.LatentFingerprint",
        "init_args": {
            "generator": "score-ldm",
            "decoder": {"name": decoder},
            "key": {"bits": BITS, "sigma": 1.0},
            "test": {"attacks": ["paper", *(f"grid-{kind}" for kind in kinds)]},
        },
    }
    data = {
        "class_path": "datamodules.SampleNumbersDataModule",
        "init_args": {"test_images": images, "reals": "fashion"},
    }
    _write(folder, seed, model, data, metrics, table, rows if with_rows else None, listed, {"marked": images}, machine)
    _provenance(folder, experiment or f"fingerprint/{decoder}")
    return folder


def attributor_run(
    folder: Path,
    *,
    seed: int = 0,
    representation: str = "artifact",
    skill: float = 0.85,
    robustness: float = 1.0,
    per_source: int = 60,
    sources: Sequence[str] = SOURCES,
    kinds: Sequence[str] = ("noise", "jpeg"),
    machine: dict[str, Any] | None = None,
    first_image: int = 0,
    experiment: str = "",
    one_row_a_condition: bool = False,
) -> Path:
    """A finished test of an attributor under grids."""
    listed = conditions(kinds, seed)
    images = per_source * len(sources)
    labels = np.repeat(np.arange(len(sources)), per_source)
    metrics: dict[str, Estimate] = {}
    table: list[Result] = []
    predicted: dict[str, np.ndarray] = {}
    shared = np.random.default_rng([7]).random(images)  # how hard each image is, for every run alike
    for number, condition in enumerate(listed):
        rng = np.random.default_rng([seed, number, sum(representation.encode())])
        rate = max(1 / len(sources), skill - 0.6 * severity(condition) / robustness)
        right = 0.7 * shared + 0.3 * rng.random(images) < rate
        other = (labels + rng.integers(1, len(sources), images)) % len(sources)
        predicted[condition["name"]] = np.where(right, labels, other)
        recalls = [int(right[labels == label].sum()) for label in range(len(sources))]
        found = {"accuracy": proportion(int(right.sum()), images), "accuracy_macro": _macro(recalls, per_source)}
        fdr = 0.5 + 6 * (rate - 1 / len(sources))
        found["fdr"] = Estimate(fdr, 0.93 * fdr, 1.07 * fdr, images, "student t 95%", {"n_per_half": 30, "d": 64})
        if condition["kind"] == "clean":
            found |= {f"recall/{sources[k]}": proportion(recalls[k], per_source) for k in range(len(sources))}
        for metric, estimate in found.items():
            where = "" if condition["kind"] == "clean" else f"{condition['name']}/"
            metrics[f"test/{where}{metric}"] = estimate
            table.append(_result("test", condition, metric, estimate))
        control = proportion(int(0.8 * right.sum()), images)
        metrics[f"test/{'' if condition['kind'] == 'clean' else condition['name'] + '/'}control/raw/accuracy"] = control
        table.append(_result("control/raw", condition, "accuracy", control))
    rows = []
    for index in range(images):
        base = {"index": index, "file": f"/data/{index:05d}.png", "source": sources[labels[index]]}
        base["content_id"] = f"{first_image + index:016x}"
        names = {name: sources[found[index]] for name, found in predicted.items()}
        if one_row_a_condition:
            rows += [{**base, "attack": name, "predicted": source} for name, source in names.items()]
        else:
            rows.append({**base, "predicted": names, "distance": 8.0})
    model = {
        "class_path": "lightning_modules.attributor.Attributor",
        "init_args": {"embedding": "rgb", "representation": representation, "model_seed": None},
    }
    data = {"class_path": "datamodules.GMDataModule", "init_args": {"root": "data/gm-small", "seed": 0}}
    _write(folder, seed, model, data, metrics, table, rows, listed, {"test": images}, machine)
    _provenance(folder, experiment or f"attribution/{representation}")
    return folder


def unfinish(folder: Path, done: int) -> Path:
    """Make the folder that of an evaluation which was killed when so many blocks were done."""
    for name in ("metrics.json", "results.csv", "rows.jsonl"):
        (folder / name).unlink(missing_ok=True)
    part = next(iter(json.loads((folder / "evaluation.json").read_text())["parts"]))
    blocks = folder / "blocks" / part
    blocks.mkdir(parents=True, exist_ok=True)
    for number in range(done):
        (blocks / f"{number}.parquet").write_bytes(b"")
    return folder


def make_earlier(folder: Path) -> Path:
    """Make the folder one of an earlier version: names in `metrics.json` alone."""
    for name in ("results.csv", "evaluation.json"):
        (folder / name).unlink()
    return folder


def _mean(values: np.ndarray, details: dict[str, Any]) -> Estimate:
    mean, n = float(values.mean()), len(values)
    half = student_half_width(float(values.std(ddof=1)) / math.sqrt(n), n - 1)
    return Estimate(mean, max(0.0, mean - half), min(1.0, mean + half), n, "student t 95%", details)


def _macro(right: Sequence[int], n: int) -> Estimate:
    mean = sum(right) / (n * len(right))
    ends = [wilson(count, n) for count in right]
    below = math.sqrt(sum((count / n - low) ** 2 for count, (low, _) in zip(right, ends, strict=True))) / len(right)
    above = math.sqrt(sum((high - count / n) ** 2 for count, (_, high) in zip(right, ends, strict=True))) / len(right)
    return Estimate(mean, mean - below, mean + above, n * len(right), "wilson (mover) 95%")


def _result(part: str, condition: dict[str, Any], metric: str, estimate: Estimate) -> Result:
    where = part, condition["name"], condition["kind"], condition["strength"], str(condition["seed"])
    return Result(*where, metric, estimate)


def _write(
    folder: Path,
    seed: int,
    model: dict[str, Any],
    data: dict[str, Any],
    metrics: dict[str, Estimate],
    table: list[Result],
    rows: list[dict[str, Any]] | None,
    listed: list[dict[str, Any]],
    parts: dict[str, int],
    machine: dict[str, Any] | None,
) -> None:
    folder.mkdir(parents=True)
    trainer = {"accelerator": "cpu", "devices": 1, "strategy": "auto", "num_nodes": 1, "max_epochs": 10}
    config = {
        "seed_everything": seed,
        "trainer": {**trainer, "default_root_dir": str(folder), **(machine or {})},
        "model": model,
        "data": {**data, "init_args": {**data["init_args"], "num_workers": (machine or {}).get("devices", 1)}},
        "ckpt_path": str(folder / "checkpoints" / "last.ckpt"),
    }
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    write_metrics(folder / "metrics.json", metrics)
    (folder / "results.csv").write_text(results_csv(table))
    if rows is not None:
        write_jsonl(folder / "rows.jsonl", rows)
    write_json(
        folder / "evaluation.json",
        {
            "format": 1,
            "identity": "f" * 64,
            "settings": {},
            "block_size": 64,
            "parts": {part: {"images": count, "blocks": -(-count // 64)} for part, count in parts.items()},
            "conditions": listed,
        },
    )


def _provenance(folder: Path, experiment: str) -> None:
    facts = {"experiment": experiment, "purpose": "test", "git_commit": COMMIT, "hashes": HASHES}
    write_json(folder / "provenance.json", {**facts, "command": ["evaluate.py", "test", "--ckpt_path", "RUN"]})

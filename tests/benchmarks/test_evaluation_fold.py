"""Memory of the first process while it folds a million images: bounded, whatever their number."""

from __future__ import annotations

import json
import multiprocessing
import resource
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import pyarrow as pa
import pytest
import torch

from lightning_modules.evaluation.blocks import Evaluation, EvaluationFolder, matrix
from lightning_modules.evaluation.conditions import make_conditions
from lightning_modules.evaluation.results import fold_results, result_rows
from lightning_modules.reporting.run_files import write_jsonl, write_metrics

SOURCES = [f"gan-{letter}" for letter in "abcdefgh"]
MIB = 2**20


def write_evaluation(folder: Path, images: int, dimensions: int, block_size: int) -> None:
    """An attributor's test of so many images, clean and under JPEG, as blocks."""
    conditions = [condition.to_json() for condition in make_conditions(["jpeg_50"], 0)]
    settings = {"sources": SOURCES, "compared": {}, "halvings": 2, "halving_seed": 0, "training images": None}
    evaluation = Evaluation("attribution", settings, block_size, {"test": images}, conditions, {})
    stored = EvaluationFolder.begin(folder, evaluation)
    generator = torch.Generator().manual_seed(0)
    for block in stored.blocks:
        index = torch.arange(block[1] * block_size, min((block[1] + 1) * block_size, images))
        labels = index % len(SOURCES)
        columns = {"index": matrix(index), "label": matrix(labels), "content_id": matrix(index + 2**40)}
        columns["path"] = pa.array([f"test/{number:07d}.png" for number in index.tolist()], type=pa.large_string())
        columns["example"] = pa.array([None] * len(index), type=pa.large_binary())
        for place in range(2):
            logits = torch.randn(len(index), len(SOURCES), generator=generator)
            logits[torch.arange(len(index)), labels] += 2.0 - place
            columns[f"{place}.logits"] = matrix(logits)
            features = torch.randn(len(index), dimensions, generator=generator) + labels[:, None] / 4
            columns[f"{place}.features"] = matrix(features)
            columns[f"{place}.distance"] = matrix(features.double().norm(dim=1))
        columns["1.changed"] = matrix(torch.ones(len(index), dtype=torch.bool))
        stored.commit(block, columns)


def fold(folder: Path) -> tuple[float, float]:
    """Fold and write rows; give the growth of this process's memory in MiB and its seconds."""
    before, began = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
    stored = EvaluationFolder(folder)
    write_metrics(folder / "metrics.json", fold_results(stored))
    write_jsonl(folder / "rows.jsonl", result_rows(stored))
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    return grown / 1024, time.process_time() - began


def measured(folder: Path, images: int, dimensions: int = 64, block_size: int = 4096) -> tuple[float, float]:
    """MiB and seconds of a fold in a process of its own."""
    write_evaluation(folder, images, dimensions, block_size)
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(fold, folder).result()


@pytest.mark.benchmark
@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_a_million_rows_are_folded_in_bounded_memory(tmp_path):
    small, _ = measured(tmp_path / "small", 100_000)
    large, seconds = measured(tmp_path / "large", 1_000_000)
    metrics = json.loads((tmp_path / "large" / "metrics.json").read_text())
    print(f"\n100,000 images: {small:.0f} MiB; 1,000,000 images: {large:.0f} MiB, {seconds:.0f} s of processor time")
    assert metrics["test/accuracy"]["n"] == 1_000_000
    with (tmp_path / "large" / "rows.jsonl").open() as file:
        assert sum(1 for _ in file) == 2_000_000
    assert large < 600

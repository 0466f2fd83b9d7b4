"""Blocks of an evaluation: dealt whole, committed once, refused where they belong to something else."""

from __future__ import annotations

import json

import pyarrow as pa
import pytest
import torch
from filelock import FileLock

from datamodules.blocks import Blocks, block_loader
from lightning_modules.common.blocks import blocks_of, samples_of, share_of
from lightning_modules.evaluation import blocks as module
from lightning_modules.evaluation.blocks import (
    Evaluation,
    EvaluationError,
    EvaluationFolder,
    matrix,
    read_matrix,
    read_some_rows,
    require_finite,
    some_rows,
)

PARTS = {"a": 7, "b": 2}


def evaluation(**settings):
    return Evaluation("attribution", {"weights": "w", **settings}, 3, PARTS, [{"name": "clean"}], {})


def commit(folder, block):
    first = block[1] * 3
    numbers = torch.arange(first, min(first + 3, PARTS[block[0]]))
    folder.commit(block, {"index": matrix(numbers), "square": matrix((numbers**2).double())})


@pytest.mark.parametrize("world", [1, 2, 3, 7])
def test_every_block_goes_to_one_process_whole(world):
    blocks = blocks_of(PARTS, 3)
    assert blocks == [("a", 0), ("a", 1), ("a", 2), ("b", 0)]
    shares = [share_of(blocks, rank, world) for rank in range(world)]
    assert len({len(share) for share in shares}) == 1
    assert len(shares[0]) >= 1
    dealt = [block for share in shares for block in share if block is not None]
    assert sorted(dealt) == blocks


def test_batches_have_the_same_samples_on_any_number_of_processes():
    parts = {"a": list(range(7)), "b": list(range(2))}
    found = {}
    for world in (1, 2, 5):
        batches = [
            batch
            for rank in range(world)
            for batch in Blocks(parts, 3, share_of(blocks_of(PARTS, 3), rank, world), lambda items: {"items": items})
        ]
        full = [batch for batch in batches if batch["part"]]
        assert all(len(batch["index"]) == 0 for batch in batches if not batch["part"])
        found[world] = sorted((batch["part"], batch["block"], batch["items"]) for batch in full)
    assert found[1] == found[2] == found[5]
    assert found[1][2] == ("a", 2, [6])


def test_a_loader_gives_the_blocks_that_are_left():
    samples = [{"index": number} for number in range(7)]
    loader = block_loader({"a": samples}, 3, None, find=lambda parts, size: [("a", 2)])
    assert [(batch["part"], batch["block"]) for batch in loader] == [("a", 2)]
    with pytest.raises(ValueError, match="found block_size 0, expected at least 1"):
        blocks_of(PARTS, 0)
    assert list(samples_of(2, 7, 3)) == [6]


def test_what_is_committed_is_left_out_and_read_in_order(tmp_path):
    folder = EvaluationFolder.begin(tmp_path, evaluation())
    for block in (("a", 2), ("b", 0), ("a", 0)):
        commit(folder, block)
    again = EvaluationFolder.begin(tmp_path, evaluation())
    assert again.missing() == [("a", 1)]
    with pytest.raises(EvaluationError, match="found 3 of 4 blocks"):
        again.require_whole()
    commit(again, ("a", 1))
    again.require_whole()
    table = pa.concat_tables(again.read("a"))
    assert read_matrix(table, "index").tolist() == list(range(7))
    assert read_matrix(table, "square").tolist() == [float(n * n) for n in range(7)]
    assert [len(table) for table in again.read("a", ["index"], rows=1)] == [3, 3, 1]


def test_another_evaluation_is_refused_or_replaces_all_of_the_old_one(tmp_path):
    commit(EvaluationFolder.begin(tmp_path, evaluation()), ("a", 0))
    (tmp_path / "metrics.json").write_text("{}")
    other = evaluation(weights="v", seed=1)
    with pytest.raises(EvaluationError, match=r'seed nothing, now 1; weights "w", now "v".*--fresh true'):
        EvaluationFolder.begin(tmp_path, other)
    assert (tmp_path / "metrics.json").exists()
    replaced = EvaluationFolder.begin(tmp_path, other, replace=True)
    assert len(replaced.missing()) == 4
    assert not (tmp_path / "metrics.json").exists()
    assert json.loads((tmp_path / "evaluation.json").read_text())["identity"] == other.identity


def test_results_of_an_earlier_version_do_not_stay_beside_new_blocks(tmp_path):
    (tmp_path / "metrics.json").write_text("{}")
    EvaluationFolder.begin(tmp_path, evaluation())
    assert not (tmp_path / "metrics.json").exists()


@pytest.mark.parametrize(
    "change", [{"block_size": 4}, {"parts": {"a": 8, "b": 2}}, {"conditions": []}, {"kind": "fingerprint"}]
)
def test_all_that_numbers_depend_on_is_part_of_the_identity(change):
    one = evaluation()
    assert Evaluation(**{**vars(one), **change}).identity != one.identity
    assert Evaluation(**{**vars(one), "report": {"a": 1}}).identity == one.identity


def test_half_a_block_is_never_a_block(tmp_path):
    folder = EvaluationFolder.begin(tmp_path, evaluation())
    partial = tmp_path / "blocks" / "a" / ".0000000.parquet.1-aa.partial"
    partial.write_bytes(b"PAR1")
    assert len(folder.missing()) == 4
    EvaluationFolder.begin(tmp_path, evaluation())
    assert not partial.exists()  # what a killed process has left
    with pytest.raises(RuntimeError, match="found 2 samples"):
        folder.commit(("a", 0), {"index": matrix(torch.arange(2))})
    folder.path(("a", 0)).write_bytes(b"PAR1 and then nothing")
    with pytest.raises(EvaluationError, match=r"0000000.parquet cannot be read.*remove it"):
        list(folder.read("a"))


def test_a_folder_in_use_by_another_process_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "_locks", {})
    with FileLock(tmp_path / ".evaluation.lock"), pytest.raises(EvaluationError, match="another process evaluates"):
        EvaluationFolder.begin(tmp_path, evaluation())


@pytest.mark.parametrize("text", ["{", '{"format": 9}', '{"format": 1}', "[]"])
def test_a_file_that_is_no_evaluation_is_named(tmp_path, text):
    (tmp_path / "evaluation.json").write_text(text)
    with pytest.raises(EvaluationError, match=r"evaluation.json: found"):
        EvaluationFolder(tmp_path)
    (tmp_path / "evaluation.json").unlink()
    with pytest.raises(EvaluationError, match=r"found no evaluation\.json"):
        EvaluationFolder(tmp_path)


def test_columns_come_back_as_they_were():
    values = torch.randn(5, 4)
    chosen = torch.tensor([True, True, False, False, False]).numpy()
    columns = {"all": matrix(values), "some": some_rows(values[:2], chosen), "none": some_rows(None, chosen & ~chosen)}
    table = pa.table(columns)
    both = pa.concat_tables([table, table])
    assert torch.equal(read_matrix(both, "all"), torch.cat([values, values]))
    assert torch.equal(read_some_rows(table, "some"), values[:2])
    assert read_some_rows(both, "none") is None


def test_numbers_that_are_none_are_refused_with_the_images():
    values = torch.ones(3, 2)
    values[1, 0] = float("nan")
    with pytest.raises(ValueError, match=r"logits that are not finite .* for 1 of 3 images of a batch: b.png; look"):
        require_finite("logits", values, ["a.png", "b.png", "c.png"], "look")
    require_finite("logits", torch.ones(0, 2), [], "look")

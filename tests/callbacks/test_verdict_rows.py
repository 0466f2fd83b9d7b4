"""Verdicts of `predict`: what a row says, what it keeps to itself, and what several images say together."""

from __future__ import annotations

import json
import stat
from types import SimpleNamespace

import pytest
import torch
from scipy.stats import binom

from lightning_modules.callbacks.prediction_rows import VerdictRows
from lightning_modules.common.random_streams import seeded_keys
from lightning_modules.evaluation.blocks import EvaluationError
from lightning_modules.fingerprints.users.key_registry import KeyRegistry
from lightning_modules.fingerprints.users.keys import key_from_text, key_to_text

BITS = 32


@pytest.fixture
def registry():
    users = KeyRegistry(BITS)
    for name, key in zip(("alice", "bob", "carol"), seeded_keys(3, BITS, seed=1), strict=True):
        users.add(name, key_to_text(key))
    return users


def evidence(key, wrong=0, strength=2.0):
    """Logits of a key whose first bits are read wrong."""
    logits = torch.where(key, strength, -strength)
    logits[:wrong] *= -1.0
    return logits


STRATEGY = SimpleNamespace(broadcast=lambda value: value, barrier=lambda name: None)
FIRST, OTHER = (SimpleNamespace(is_global_zero=first, strategy=STRATEGY) for first in (True, False))


def run(callback, logits, order=None, loss=None, reasons=None):
    """Give the callback blocks of two, in any order, and return the rows written."""
    blocks = callback.unfinished_blocks(FIRST, "hash", {"predict": len(logits)}, 2)
    feed(callback, FIRST, [blocks[place] for place in order] if order else blocks, logits, loss, reasons)
    callback.on_predict_end(FIRST, None)
    return read(callback.out)


def read(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def feed(callback, trainer, blocks, logits, loss=None, reasons=None):
    loss = torch.full((len(logits),), float("nan")) if loss is None else loss
    for part, number in blocks:
        chosen = list(range(2 * number, min(2 * number + 2, len(logits))))
        outputs = {
            "index": torch.tensor(chosen),
            "path": [f"{index}.png" for index in chosen],
            "content_id": torch.tensor([2**62 + index for index in chosen]),
            "logits": logits[chosen],
            "loss": loss[chosen],
        }
        outputs |= {} if reasons is None else {"reason": [reasons[index] for index in chosen]}
        callback.on_predict_batch_end(trainer, None, outputs, {"part": part, "block": number}, 0)


def test_a_row_names_the_user_and_says_how_likely_that_is_chance(registry, tmp_path):
    bob = registry.key_of("bob")
    rows = run(VerdictRows(tmp_path / "out.jsonl", registry, 1e-6), torch.stack([evidence(bob, wrong=1)]))
    assert rows == [
        {
            "file": "0.png",
            "content_id": "4000000000000000",
            "bits_matching": 31,
            "bits": 32,
            "best_user": "bob",
            "p_value": pytest.approx(33 * 0.5**32),
            "family_p_value": pytest.approx(3 * 33 * 0.5**32),
            "verdict": "bob",
            "false_positive_rate": 1e-6,
            "confidence": pytest.approx(1.0 / (1.0 + 2.718281828**-2.0)),
        }
    ]


def test_a_match_that_chance_explains_is_no_verdict(registry, tmp_path):
    wrong = 8
    callback = VerdictRows(tmp_path / "out.jsonl", registry, 1e-6)
    (row,) = run(callback, evidence(registry.key_of("alice"), wrong)[None])
    assert (row["verdict"], row["best_user"], row["bits_matching"]) == (None, "alice", BITS - wrong)
    assert row["family_p_value"] == pytest.approx(3 * binom.sf(BITS - wrong - 1, BITS, 0.5))  # all bits weigh the same
    assert row["family_p_value"] > 1e-6
    assert callback.summary.startswith(
        "1 file: 0 attributed, 1 without a match, 0 abstained (3 users, false-positive rate 1e-06 an image"
    )
    lenient = VerdictRows(tmp_path / "out.jsonl", registry, 0.02)
    assert run(lenient, evidence(registry.key_of("alice"), wrong)[None])[0]["verdict"] == "alice"


def test_bits_that_are_unsure_cost_little(registry, tmp_path):
    """Eight wrong bits name nobody where all weigh the same; where these are the unsure ones they do."""
    logits = evidence(registry.key_of("alice"), wrong=8, strength=6.0)
    logits[:8] /= 12.0
    (row,) = run(VerdictRows(tmp_path / "out.jsonl", registry, 1e-6), logits[None])
    assert (row["verdict"], row["bits_matching"]) == ("alice", BITS - 8)
    assert row["p_value"] < 1e-6 < binom.sf(BITS - 9, BITS, 0.5)


def test_a_registry_too_large_to_name_anybody_is_told(registry, tmp_path):
    callback = VerdictRows(tmp_path / "out.jsonl", registry, 5e-10)
    (row,) = run(callback, evidence(registry.key_of("bob"))[None])
    assert (row["verdict"], row["best_user"], row["family_p_value"]) == (None, "bob", 3 * 0.5**BITS)
    assert "keys of 32 bits can tell 2 users apart at most at this rate" in callback.summary


def test_rows_come_in_the_order_of_the_files_whatever_the_order_of_work(registry, tmp_path):
    logits = torch.stack([evidence(registry.key_of(name)) for name in ("carol", "alice", "bob")])
    rows = run(VerdictRows(tmp_path / "a.jsonl", registry), logits, order=[1, 0])
    assert [(row["file"], row["verdict"]) for row in rows] == [("0.png", "carol"), ("1.png", "alice"), ("2.png", "bob")]
    assert (tmp_path / "a.jsonl").read_text().count("index") == 0


def test_the_first_process_writes_the_images_of_all(registry, tmp_path):
    logits = torch.stack([evidence(registry.key_of(name)) for name in registry.names])
    alone = run(VerdictRows(tmp_path / "alone.jsonl", registry, combined=True), logits)
    first, second = (VerdictRows(tmp_path / "both.jsonl", registry, combined=True) for _ in range(2))
    blocks = first.unfinished_blocks(FIRST, "hash", {"predict": 3}, 2)
    feed(second, OTHER, blocks[1:], logits)
    feed(first, FIRST, blocks[:1], logits)
    second.on_predict_end(OTHER, None)
    assert not second.out.exists()
    first.on_predict_end(FIRST, None)
    assert read(first.out) == alone


def test_a_stopped_prediction_shows_its_rows_and_goes_on(registry, tmp_path, capsys):
    logits = torch.stack([evidence(registry.key_of(name)) for name in (*registry.names, "bob", "carol")])
    whole = run(VerdictRows(tmp_path / "whole.jsonl", registry), logits)
    out = tmp_path / "a.jsonl"
    stopped = VerdictRows(out, registry)
    blocks = stopped.unfinished_blocks(FIRST, "hash", {"predict": 5}, 2)
    feed(stopped, FIRST, [blocks[0], blocks[2]], logits)
    partial = out.with_name("a.jsonl.partial")
    assert read(partial) == whole[:2]  # up to the first unfinished block
    assert not out.exists()
    kept = tmp_path / "a.jsonl.blocks"
    assert stat.S_IMODE(kept.stat().st_mode) == 0o700  # logits may be somebody's key
    with pytest.raises(EvaluationError, match="--fresh true"):
        VerdictRows(out, registry).unfinished_blocks(FIRST, "other files", {"predict": 5}, 2)
    again = VerdictRows(out, registry)
    left = again.unfinished_blocks(FIRST, "hash", {"predict": 5}, 2)
    assert left == [blocks[1]]
    assert "2 of 3 blocks done" in capsys.readouterr().err
    feed(again, FIRST, left, logits)
    again.on_predict_end(FIRST, None)
    assert read(out) == whole
    assert not partial.exists()
    assert not kept.exists()


def test_images_together_name_a_user_whom_none_names_alone(registry, tmp_path):
    carol = registry.key_of("carol")
    generator = torch.Generator().manual_seed(0)
    logits = evidence(carol, strength=1.0) + 2.0 * torch.randn(24, BITS, generator=generator)
    callback = VerdictRows(tmp_path / "out.jsonl", registry, 1e-6, combined=True)
    *rows, together = run(callback, logits)
    assert len(rows) == 24
    assert sum(row["verdict"] is not None for row in rows) == 0
    assert (together["combined"], together["files"], together["verdict"]) == (True, 24, "carol")
    assert together["confidence"] > max(row["confidence"] for row in rows)
    assert "file" not in together
    assert "all together: carol" in callback.summary


def test_what_a_decoder_always_answers_is_no_evidence_however_many_images_say_it(registry, tmp_path):
    generator = torch.Generator().manual_seed(0)
    always = torch.randn(BITS, generator=generator)
    *_, together = run(VerdictRows(tmp_path / "out.jsonl", registry, combined=True), always.expand(50, BITS))
    assert together["verdict"] is None
    assert together["p_value"] > 1e-4


def test_bits_are_written_only_when_asked_for_and_then_for_the_owner_alone(registry, tmp_path):
    alice = registry.key_of("alice")
    logits = torch.stack([evidence(alice), evidence(registry.key_of("bob"))])
    silent = VerdictRows(tmp_path / "silent.jsonl", registry, combined=True)
    run(silent, logits)
    for name in registry.names:
        assert key_to_text(registry.key_of(name)) not in (tmp_path / "silent.jsonl").read_text() + silent.summary
    asked = VerdictRows(tmp_path / "new" / "asked.jsonl", registry, combined=True, show_bits=True)
    rows = run(asked, logits)
    assert torch.equal(key_from_text(rows[0]["decoded_bits"], BITS), alice)
    assert len(rows[2]["decoded_bits"]) == BITS // 4
    assert stat.S_IMODE((tmp_path / "new" / "asked.jsonl").stat().st_mode) == 0o600
    assert key_to_text(alice) not in asked.summary


def test_the_loss_is_told_where_the_decoder_has_one(registry, tmp_path):
    logits = torch.stack([evidence(registry.key_of("alice"))] * 2)
    rows = run(VerdictRows(tmp_path / "a.jsonl", registry), logits, loss=torch.tensor([0.25, float("nan")]))
    assert rows[0]["loss"] == 0.25
    assert "loss" not in rows[1]


def test_two_users_who_match_equally_well_are_not_told_apart(tmp_path):
    alike = KeyRegistry(BITS)
    key = seeded_keys(1, BITS, seed=3)[0]
    for name, flipped in (("one", 0), ("two", 1)):
        other = key.clone()
        other[flipped] = ~other[flipped]
        alike.add(name, key_to_text(other))
    (row,) = run(VerdictRows(tmp_path / "a.jsonl", alike), evidence(key)[None])
    assert (row["bits_matching"], row["best_user"], row["verdict"]) == (31, "one", None)
    assert row["family_p_value"] < 1e-6


def test_the_summary_counts_images_by_user_and_cuts_a_long_list(tmp_path):
    many = KeyRegistry(BITS)
    keys = seeded_keys(12, BITS, seed=5)
    for number, key in enumerate(keys):
        many.add(f"user{number}", key_to_text(key))
    callback = VerdictRows(tmp_path / "a.jsonl", many, 1e-5)
    run(callback, torch.stack([evidence(key) for key in (*keys, keys[7])]))
    lines = callback.summary.splitlines()
    assert lines[0] == (
        "13 files: 13 attributed, 0 without a match, 0 abstained (12 users, false-positive rate 1e-05 an image: a user "
        "is named by a p-value of 8.3e-07 or less)"
    )
    assert lines[1] == "  user7: 2"
    assert lines[-1] == "  and 2 more"
    assert len(lines) == 12


def test_an_abstention_has_its_numbers_a_reason_and_no_part_in_the_verdict_over_all(registry, tmp_path):
    """Whatever the evidence: the second image speaks for bob, and the third for carol."""
    keys = [registry.key_of(name) for name in ("alice", "bob", "carol")]
    why = ["", "abstained: no content: found 1 colour in the image", ""]
    callback = VerdictRows(tmp_path / "out.jsonl", registry, 1e-6, combined=True)
    *rows, together = run(callback, torch.stack([evidence(key) for key in keys]), reasons=why)
    assert [row["verdict"] for row in rows] == ["alice", None, "carol"]
    assert [row.get("reason") for row in rows] == [None, why[1], None]
    assert (rows[1]["best_user"], rows[1]["bits_matching"]) == ("bob", BITS)
    assert together["files"] == 2
    assert callback.summary.splitlines()[1] == (
        "abstained where images are without content or far from the generator's: each row says why"
    )
    nothing = VerdictRows(tmp_path / "none.jsonl", registry, 1e-6, combined=True)
    *_, together = run(nothing, evidence(keys[0])[None], reasons=[why[1]])
    assert together == {"combined": True, "files": 0, "verdict": None, "reason": "abstained: on every image"}
    assert nothing.summary.splitlines()[-1] == "all together: nobody, since no image is left"

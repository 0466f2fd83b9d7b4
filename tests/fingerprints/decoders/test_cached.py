"""Decoding that goes on where it was stopped: nothing twice, nothing of others, nothing half, for the owner alone."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest
import torch

from lightning_modules.fingerprints.decoders.base import CachedDecoder, KeyEstimate


class Counting:
    """A decoder whose answer follows from the images, and which counts what it was given."""

    def __init__(self, latents=True):
        self.images, self.latents = 0, latents

    def decode(self, images):
        self.images += len(images)
        flat = images.flatten(1)
        return KeyEstimate(flat[:, :5] - 0.5, flat.mean(dim=1), flat[:, :7].clone() if self.latents else None)


class Idle:
    def decode(self, images):
        raise AssertionError("decoded anew")


@pytest.fixture
def images():
    return torch.randint(0, 256, (7, 3, 8, 8), generator=torch.Generator().manual_seed(0)).float() / 255


def same(first: KeyEstimate, second: KeyEstimate) -> bool:
    return torch.equal(first.logits, second.logits) and torch.equal(first.loss, second.loss)


def test_the_second_time_nothing_is_decoded(images, tmp_path):
    counting = Counting()
    first = CachedDecoder(counting, tmp_path / "kept", "identity", batch=3).decode(images)
    assert counting.images == 7
    assert same(first, Counting().decode(images))
    again = CachedDecoder(Idle(), tmp_path / "kept", "identity", batch=3).decode(images)
    assert same(first, again)
    assert torch.equal(first.latents, again.latents)
    other_order = torch.cat([images[3:6], images[:3]])
    assert torch.equal(
        CachedDecoder(Idle(), tmp_path / "kept", "identity", batch=3).decode(other_order).logits[:3],
        first.logits[3:6],
    )


def test_an_interrupted_run_goes_on(images, tmp_path):
    CachedDecoder(Counting(), tmp_path, "identity", batch=2).decode(images[:4])
    counting = Counting()
    estimate = CachedDecoder(counting, tmp_path, "identity", batch=2).decode(images)
    assert counting.images == 3
    assert same(estimate, Counting().decode(images))


def test_other_images_settings_or_sizes_are_decoded(images, tmp_path):
    CachedDecoder(Counting(), tmp_path, "identity").decode(images)
    changed = images.clone()
    changed[0, 0, 0, 0] = 1.0 - changed[0, 0, 0, 0].round()
    turned = images.reshape(7, 3, 4, 16)
    for identity, batch in (("other", images), ("identity", changed), ("identity", turned), ("identity", images[:6])):
        counting = Counting()
        estimate = CachedDecoder(counting, tmp_path, identity).decode(batch)
        assert counting.images == len(batch)
        assert same(estimate, Counting().decode(batch))


def test_a_decoder_without_latents_stays_without(images, tmp_path):
    first = CachedDecoder(Counting(latents=False), tmp_path, "identity").decode(images)
    assert first.latents is None
    assert CachedDecoder(Idle(), tmp_path, "identity").decode(images).latents is None


def test_answers_are_their_owners_alone(images, tmp_path):
    before = os.umask(0)
    try:
        CachedDecoder(Counting(), tmp_path / "kept", "identity", batch=3).decode(images)
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "kept").stat().st_mode) == 0o700
    files = list((tmp_path / "kept").iterdir())
    assert len(files) == 3
    assert {stat.S_IMODE(path.stat().st_mode) for path in files} == {0o600}


def test_a_half_written_answer_is_neither_used_nor_readable_by_others(images, tmp_path, monkeypatch):
    def killed(self, target):
        raise KeyboardInterrupt

    stopped = CachedDecoder(Counting(), tmp_path, "identity")
    before = os.umask(0)
    try:
        with monkeypatch.context() as patch:
            patch.setattr(Path, "replace", killed)
            patch.setattr(Path, "unlink", lambda *_, **__: None)  # nobody cleans up after a process that was killed
            with pytest.raises(KeyboardInterrupt):
                stopped.decode(images)
    finally:
        os.umask(before)
    (left,) = tmp_path.iterdir()
    assert stat.S_IMODE(left.stat().st_mode) == 0o600
    left.write_bytes(left.read_bytes()[:50])
    counting = Counting()
    estimate = CachedDecoder(counting, tmp_path, "identity").decode(images)
    assert counting.images == 7
    assert same(estimate, Counting().decode(images))
    assert same(CachedDecoder(Idle(), tmp_path, "identity").decode(images), estimate)


def test_a_partial_file_beside_an_answer_is_ignored(images, tmp_path):
    first = CachedDecoder(Counting(), tmp_path, "identity").decode(images)
    (kept,) = tmp_path.glob("*.safetensors")
    kept.with_suffix(".partial").write_bytes(b"half")
    assert same(CachedDecoder(Idle(), tmp_path, "identity").decode(images), first)
    kept.unlink()
    counting = Counting()
    CachedDecoder(counting, tmp_path, "identity").decode(images)
    assert counting.images == 7

"""The decoder never sees a key; what a test leaves behind holds none."""

from __future__ import annotations

import dataclasses
import subprocess
import sys

import numpy as np
import pyarrow as pa
import pytest
import torch
from tiny_fingerprints import BITS, read_rows, write_config, write_vq

import evaluate
import train
from lightning_modules.common.random_streams import seeded_keys, standard_normal_latents
from lightning_modules.evaluation.blocks import read_matrix
from lightning_modules.evaluation.conditions import make_conditions
from lightning_modules.evaluation.fingerprint import FingerprintEvaluation
from lightning_modules.fingerprints.decoders.base import DecoderParts, KeyEstimate
from lightning_modules.fingerprints.decoders.losses import make_loss
from lightning_modules.fingerprints.decoders.registry import make_decoder
from lightning_modules.fingerprints.fingerprint import make_fingerprint
from lightning_modules.fingerprints.layouts import place_key
from lightning_modules.fingerprints.marked_images import MarkedImages
from lightning_modules.fingerprints.settings import TestSettings
from lightning_modules.fingerprints.users.keys import key_to_text
from lightning_modules.metrics.fingerprint_scores import NEGATIVES

FIRST, COUNT = 2**41, 12


class Recorded:
    """A decoder that keeps what it was given and what it answered."""

    def __init__(self, decoder):
        self.decoder = decoder
        self.images: list[torch.Tensor] = []
        self.logits: list[torch.Tensor] = []

    def decode(self, images) -> KeyEstimate:
        estimate = self.decoder.decode(images)
        self.images.append(images.clone())
        self.logits.append(estimate.logits)
        return estimate


class OtherKeys(MarkedImages):
    """The same images, with keys beside them that are not theirs."""

    def make(self, samples):
        made = super().make(samples)
        return dataclasses.replace(made, keys=seeded_keys(len(samples), made.keys.shape[1], seed=99))


class Linear:
    """A generator whose keys an inversion finds in a few steps: grey plus a linear map of the latent."""

    latent_dim, image_size = 16, 32

    def __init__(self):
        drawn = torch.randn(self.latent_dim, 3 * self.image_size**2, generator=torch.Generator().manual_seed(0))
        self.map = 0.04 * drawn

    def sample_latents(self, n, seed, start=0):
        scale = torch.linspace(1.0, 0.2, self.latent_dim)
        return standard_normal_latents(n, self.latent_dim, seed, start) * scale

    def synthesize(self, latents):
        return 0.5 + (latents @ self.map).view(-1, 3, self.image_size, self.image_size)


@pytest.mark.parametrize(
    ("decoder", "options"),
    [("inversion", {"iterations": 4}), ("paper", {"starts": 2, "steps": 150, "whitened": True})],
    ids=["inversion", "paper"],
)
def test_answers_are_the_same_whatever_keys_the_scores_are_given(decoder, options):
    generator = Linear()
    placed = place_key(lambda: iter([generator.sample_latents(500, 1)]), generator.latent_dim, BITS, -BITS)
    fingerprint = make_fingerprint(placed, 2.0, -BITS, "flat", "0" * 64, "linear")
    seen = []
    for stream in (MarkedImages, OtherKeys):
        reader = Recorded(
            make_decoder(decoder, DecoderParts(generator, fingerprint, None, make_loss("pixels")), options)
        )
        conditions, marked = make_conditions(["jpeg_90"], 0), stream(generator, fingerprint)
        evaluation = FingerprintEvaluation(marked, reader, conditions, TestSettings(), {"marked": COUNT}, 0)
        numbers = torch.arange(COUNT)
        columns = evaluation.columns("marked", {"sample": FIRST + numbers, "index": numbers})
        margins = read_matrix(pa.table(columns), "0.margins")
        seen.append((torch.cat(reader.images), torch.cat(reader.logits), float((margins > 0).float().mean())))
    (images, logits, right), (same_images, same_logits, wrong) = seen
    assert torch.equal(images, same_images)
    assert torch.equal(logits, same_logits)
    chance = 4 * (0.25 / (COUNT * BITS)) ** 0.5  # four deviations of fair bits
    assert right > 0.9
    assert wrong == pytest.approx(0.5, abs=chance)


def test_rows_count_matching_bits_and_hold_no_key(run):
    for row in read_rows(run):
        assert set(row) == {"index", "matching_bits", "p_value"}
        assert all(type(count) is int and 0 <= count <= BITS for count in row["matching_bits"].values())
        assert all(type(chance) is float and 0.0 < chance <= 1.0 for chance in row["p_value"].values())


def test_a_test_with_wandb_writes_no_key_anywhere(run, tmp_path, monkeypatch):
    """Keys of 64 bits, whose spellings are nowhere by accident."""
    bits = 64
    known = seeded_keys(COUNT, bits, 0, FIRST)
    folder = tmp_path / "r"
    monkeypatch.delenv("WANDB_MODE", raising=False)
    options = ["--run_dir", str(folder), "--trainer.logger", "null", f"--data.init_args.test_images={COUNT}"]
    generator = write_vq(tmp_path / "g.safetensors")
    settings = {
        "key.bits": bits,
        "key.shift": 8,
        "decoder.name": "paper",
        "decoder.options": {"starts": 1, "steps": 2},
        "test.other_generator": None,
    }
    config = write_config(tmp_path, generator, **settings, data={"negative_images": 12})
    evaluate.main(["test", "--config", str(config), "--ckpt_path", str(trained(tmp_path, config)), *options])
    (record,) = (folder / "wandb").glob("offline-run-*/run-*.wandb")
    inspect = [sys.executable, "-m", "wandb", "leet", "inspect", "--summary", "--json", str(record)]
    summary = subprocess.run(inspect, capture_output=True, text=True, check=True).stdout
    assert '"test/clean/bit_accuracy"' in summary
    written = [summary.encode()] + [path.read_bytes() for path in folder.rglob("*") if path.is_file()]
    assert len(written) > 5
    for key in known:
        for spelling in spellings(key):
            assert not any(spelling in content for content in written)


def trained(folder, config):
    """Checkpoint of a fingerprint without a training."""
    train.main(["--config", str(config), "--run_dir", str(folder / "t"), "--trainer.max_epochs", "0",
                "--test_after_fit", "false"])  # fmt: skip
    return folder / "t"


def spellings(key):
    """How a key might be written down: text, lists, and the bytes of tensors."""
    numbers = key.int().tolist()
    texts = [key_to_text(key), "".join(map(str, numbers)), str(numbers), str(key.tolist()), str(key.tolist()).lower()]
    raw = [np.packbits(key.numpy()).tobytes(), key.numpy().tobytes(), key.float().numpy().tobytes()]
    return [text.encode() for text in texts] + raw


def test_no_two_negatives_are_compared_with_the_same_key():
    evaluation = FingerprintEvaluation.__new__(FingerprintEvaluation)
    evaluation.seed = 0
    numbers, like = torch.arange(50), torch.zeros(1, 64)
    keys = torch.cat([evaluation._random_keys(kind, numbers, like) for kind in NEGATIVES])
    assert len({tuple(key.tolist()) for key in keys}) == 50 * len(NEGATIVES)

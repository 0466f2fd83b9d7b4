"""Searches that are watched: SIGTERM ends them between two steps, finished images stay, a line counts them."""

from __future__ import annotations

import json
import signal
import stat

import pytest
import torch
from png_files import save_png
from pytorch_lightning.utilities.exceptions import SIGTERMException
from tiny_fingerprints import BITS

import evaluate
from datamodules.blocks import Blocks
from lightning_modules.callbacks.search_watch import ANSWERS, SearchWatch
from lightning_modules.common.images import to_uint8
from lightning_modules.fingerprints.decoders import least_squares
from lightning_modules.fingerprints.decoders.inversion import InversionDecoder
from lightning_modules.fingerprints.users.key_registry import KeyRegistry, write_registry
from lightning_modules.generators import load_generator
from lightning_modules.latent_fingerprint import LatentFingerprint

PAPER = ["--model.init_args.decoder.name=paper", "--model.init_args.decoder.options={starts: 2, steps: 4, batch: 2}"]


class Interrupted:
    """Sends SIGTERM in the middle of an image's search, and counts the searches' steps."""

    def __init__(self, monkeypatch, at: int | None) -> None:
        self.steps, self.at = 0, at
        update = InversionDecoder._update

        def counted(decoder, rows, targets):
            update(decoder, rows, targets)
            self.steps += 1
            if self.steps == self.at:
                signal.raise_signal(signal.SIGTERM)

        monkeypatch.setattr(InversionDecoder, "_update", counted)


def test_predict_ends_within_a_step_and_goes_on_with_the_next_image(run, stylegan2, tmp_path, monkeypatch, capsys):
    generator = load_generator(stylegan2)
    (tmp_path / "images").mkdir()
    for index, image in enumerate(to_uint8(generator.synthesize(generator.sample_latents(3, seed=5)))):
        save_png(tmp_path / "images" / f"{index}.png", image.permute(1, 2, 0).numpy())
    registry = KeyRegistry(BITS)
    registry.create("someone")
    write_registry(registry, tmp_path / "users.json")
    given = ["--images", str(tmp_path / "images"), "--registry", str(tmp_path / "users.json"), *PAPER]

    def predict(name):
        out = tmp_path / f"{name}.jsonl"
        evaluate.main(["predict", "--ckpt_path", str(run), "--run_dir", str(tmp_path / "r"), "--out", str(out), *given])
        return [json.loads(line) for line in out.read_text().splitlines()]

    with monkeypatch.context() as patch:
        stopped = Interrupted(patch, at=6)  # the second of four steps on the second image
        with pytest.raises(SIGTERMException) as left:
            predict("a")
    assert left.value.code == 128 + signal.SIGTERM
    assert stopped.steps == 6
    rows = [json.loads(line) for line in (tmp_path / "a.jsonl.partial").read_text().splitlines()]
    assert [row["file"].rpartition("/")[2] for row in rows] == ["0.png"]
    with monkeypatch.context() as patch:
        counted = Interrupted(patch, at=None)
        whole = predict("a")
    assert counted.steps == 2 * 4
    assert whole[0] == rows[0]
    assert whole == predict("b")


def test_a_test_goes_on_within_a_block(run, tmp_path, monkeypatch):
    few = ["--model.init_args.test_attacks=[jpeg_50]", "--data.init_args.test_images=3"]
    few += ["--data.init_args.negative_images=0", "--data.init_args.reals=null"]

    def tested(name):
        evaluate.main(["test", "--ckpt_path", str(run), *PAPER, *few, "--run_dir", str(tmp_path / name)])
        assert not (tmp_path / name / ANSWERS).exists()
        return (tmp_path / name / "metrics.json").read_bytes()

    with monkeypatch.context() as patch:
        Interrupted(patch, at=4 * 4 + 1)  # four images are done: all clean ones, and one after JPEG
        with pytest.raises(SIGTERMException):
            tested("a")
    kept = tmp_path / "a" / ANSWERS
    assert len(list(kept.iterdir())) == 4
    assert stat.S_IMODE(kept.stat().st_mode) == 0o700  # decoded bits
    with monkeypatch.context() as patch:
        counted = Interrupted(patch, at=None)
        resumed = tested("a")
        assert counted.steps == 2 * 4
        assert resumed == tested("b")
        assert counted.steps == 2 * 4 + 6 * 4


def test_least_squares_ask_before_each_synthesis(stylegan2):
    asked = []

    class Watch:
        def check(self):
            asked.append(True)
            if len(asked) == 3:
                raise SIGTERMException

        def advance(self, images):
            raise AssertionError("no image is done")

    decoder = least_squares.LeastSquaresDecoder.__new__(least_squares.LeastSquaresDecoder)
    decoder.watch, decoder._latents, decoder._features = Watch(), lambda values: values, lambda images: images
    decoder.synthesize = lambda values: values

    for _ in range(2):
        decoder._made(torch.zeros(1, 2), lambda images: images)
    with pytest.raises(SIGTERMException):
        decoder._made(torch.zeros(1, 2), lambda images: images)


class Trainer:
    is_global_zero, received_sigterm = True, False

    def __init__(self, folder):
        self.default_root_dir = str(folder)


class Loader:
    dataset = Blocks({"marked": range(10), "real": range(5)}, 4, [("marked", 1), ("marked", 2), ("real", 1), None])


def test_the_line_counts_each_image_once_under_each_condition(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("lightning_modules.common.progress.DELAY", -1.0)
    monkeypatch.setattr("lightning_modules.common.progress.INTERVAL", -1.0)
    watch = SearchWatch(Trainer(tmp_path))
    watch.begin(Loader(), {"marked": 3})
    watch.check()
    watch.advance(4)
    watch.advance(4)
    watch.finish_block("marked", 4, None)  # under one condition the attack has changed no image
    watch.advance(6)
    watch.finish_block("marked", 2, None)
    watch.advance(1)
    watch.end()
    shown = [line.split(",")[0] for line in capsys.readouterr().err.splitlines()]
    assert shown == [f"searching keys: {done} of 19 images" for done in (4, 8, 12, 18, 19)]


def test_without_blocks_no_total_is_shown(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("lightning_modules.common.progress.DELAY", -1.0)
    watch = SearchWatch(Trainer(tmp_path))
    watch.begin(None)
    watch.advance(1)
    assert capsys.readouterr().err == "searching keys: 1 images\n"


@pytest.mark.parametrize(
    ("name", "options", "together"),
    [
        ("amortised", {}, 64),
        ("inversion", {}, 1),
        ("refined", {}, 64),
        ("hybrid", {"batch": 3}, 3),
        ("paper", {}, 1),
        ("paper", {"batch": 70}, 3),
    ],
)
def test_predict_commits_what_is_searched_together(stylegan2, name, options, together):
    small = {"bits": BITS, "shift": -BITS}
    training = {"backbone": "test_resnet", "stem": "small"}
    module = LatentFingerprint(stylegan2, key=small, training=training, decoder={"name": name, "options": options})
    assert module.predicted_at_once == together

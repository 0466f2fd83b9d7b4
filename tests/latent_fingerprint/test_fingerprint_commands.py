"""`train.py` and `evaluate.py test` with a fingerprint: the same numbers again, other decoders, two processes."""

from __future__ import annotations

import json
import shutil
import signal

import pytest
import torch
from tiny_fingerprints import BITS, read_metrics, read_rows, write_config, write_stylegan2

import evaluate
import train
from lightning_modules.fingerprints.fingerprint import FingerprintError, read_fingerprint
from lightning_modules.latent_fingerprint import LatentFingerprint

NEGATIVES = ("unmarked", "wrong_key", "other_generator", "real")
FEW = ["--data.init_args.test_images=3", "--data.init_args.negative_images=0", "--model.init_args.test_attacks=[]"]
FEW += ["--model.init_args.test.features=null", "--model.init_args.test.perceptual=null"]


def evaluated(run, folder, *options):
    """Metrics of `evaluate.py test` with the run's checkpoint."""
    return evaluate.main(["test", "--ckpt_path", str(run), "--run_dir", str(folder), *options])


def test_a_run_leaves_numbers_rows_figures_and_a_report(run):
    metrics, rows = read_metrics(run), read_rows(run)
    assert [row["index"] for row in rows] == list(range(20))
    for attack in ("clean", "jpeg_50"):
        matching = [row["matching_bits"][attack] for row in rows]
        entry = metrics[f"test/{attack}/bit_accuracy"]
        assert entry["value"] == pytest.approx(sum(matching) / (20 * BITS), abs=1e-6)
        assert entry["low"] <= entry["value"] <= entry["high"]
        exact = metrics[f"test/{attack}/attribution_accuracy"]
        assert (exact["value"], exact["n"]) == (pytest.approx(matching.count(BITS) / 20), 20)
    assert metrics["test/quality/psnr"]["n"] == metrics["test/quality/perceptual_pixels"]["n"] == 20
    for name in ("fid_before", "fid_after", "fid_own", "fid_own_floor"):
        assert metrics[f"test/quality/{name}"]["value"] > 0
        assert metrics[f"test/quality/{name}"]["n"] == 20
    assert "<html" in (run / "report.html").read_text()
    assert list((run / "figures").glob("*.png"))
    assert read_fingerprint(run / "fingerprint.safetensors").bits == BITS


def test_what_is_asked_of_attributors_alone_is_refused(run, tmp_path):
    with pytest.raises(ValueError, match="found --label_space family for a LatentFingerprint"):
        evaluated(run, tmp_path / "test", "--label_space", "family")


def test_every_kind_of_negative_is_counted_once_and_together(run):
    metrics = read_metrics(run)
    for kind in NEGATIVES:
        assert metrics[f"test/negatives/{kind}/false_positive_rate_5e-2"]["n"] == 40
    assert metrics["test/negatives/all/false_positive_rate_1e-3"]["n"] == 160
    accuracy = metrics["test/negatives/all/bit_accuracy"]["value"]
    assert accuracy == pytest.approx(0.5, abs=4 * (0.25 / (160 * BITS)) ** 0.5)  # four deviations of fair bits


def test_a_fingerprint_knows_how_its_generator_sampled(run):
    fingerprint = read_fingerprint(run / "fingerprint.safetensors")
    assert fingerprint.sampling == {"truncation": 1.0}
    assert "tensor(" not in repr(fingerprint)


def test_evaluation_gives_the_runs_own_metrics_to_the_byte(run, tmp_path, capsys):
    evaluated(run, tmp_path)
    told = capsys.readouterr().out.splitlines()
    entry = read_metrics(run)["test/clean/bit_accuracy"]
    (line,) = [line for line in told if line.startswith("test/clean/bit_accuracy: ")]
    assert f"{100 * entry['value']:.1f}\N{NO-BREAK SPACE}%" in line
    assert line.endswith("n = 20")
    assert told[-1] == str(tmp_path)
    assert (tmp_path / "metrics.json").read_bytes() == (run / "metrics.json").read_bytes()
    assert (tmp_path / "rows.jsonl").read_bytes() == (run / "rows.jsonl").read_bytes()


@pytest.mark.parametrize(
    "decoder",
    [
        ("refined", {"steps": 2}),
        ("hybrid", {"iterations": 2}),
        ("inversion", {"iterations": 2}),
        ("paper", {"starts": 2, "steps": 3}),
    ],
    ids=lambda case: case[0],
)
def test_other_decoders_read_the_same_images_with_gradients(run, tmp_path, decoder):
    name, options = decoder
    chosen = [f"--model.init_args.decoder.name={name}", f"--model.init_args.decoder.options={json.dumps(options)}"]
    metrics = evaluated(run, tmp_path, *FEW, *chosen)
    assert 0 <= metrics["test/clean/bit_accuracy"] <= 1
    assert len(read_rows(tmp_path)) == 3
    assert name in (tmp_path / "report.html").read_text()


def test_two_processes_count_what_one_counts(run, tmp_path):
    shared = ["--trainer.devices", "2", "--trainer.strategy", "ddp_fork"]
    evaluated(run, tmp_path, *shared, "--data.init_args.batch_size", "7")
    one, two = read_metrics(run), read_metrics(tmp_path)
    assert one.keys() == two.keys()
    for name in one:
        assert two[name]["n"] == one[name]["n"], name
        # batches of another size round differently in float32, and then a pixel or two in 8 bits
        assert two[name]["value"] == pytest.approx(one[name]["value"], rel=1e-4, abs=1e-9), name
    assert two["test/clean/bit_accuracy"]["value"] == one["test/clean/bit_accuracy"]["value"]
    assert read_rows(tmp_path) == read_rows(run)


def test_negatives_and_reals_can_be_left_out(run, tmp_path):
    evaluated(run, tmp_path / "none", "--data.init_args.negative_images=0")
    assert not any("negatives" in name or "fid" in name for name in read_metrics(tmp_path / "none"))
    evaluated(run, tmp_path / "no-reals", "--data.init_args.reals=null", "--model.init_args.test.other_generator=null")
    found = read_metrics(tmp_path / "no-reals")
    assert {name.split("/")[2] for name in found if "/negatives/" in name} == {"unmarked", "wrong_key", "all"}
    assert found["test/clean/bit_accuracy"] == read_metrics(run)["test/clean/bit_accuracy"]


def test_negatives_of_another_size_are_refused(run, tmp_path):
    small = write_stylegan2(tmp_path / "small.safetensors", size=16)
    with pytest.raises(ValueError, match="found an other generator of 16 px, expected 32 px"):
        evaluated(run, tmp_path / "r", f"--model.init_args.test.other_generator={small}")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"data": {"reals": None}}, "found an other generator of 32 px, expected 16 px"),
        ({"test.other_generator": None}, "found reals of 32x32 px, expected 16x16 px"),
        ({"test_attacks": ["jpg_50"]}, "there is no attack 'jpg_50'"),
    ],
    ids=["other generator", "reals", "attack"],
)
def test_what_only_the_test_needs_is_checked_before_the_training(tmp_path, change, message, capsys):
    small = write_stylegan2(tmp_path / "small.safetensors", size=16)
    config = write_config(tmp_path, small, **change)
    with pytest.raises((ValueError, SystemExit)) as told:
        train.main(["--config", str(config), "--run_dir", str(tmp_path / "r")])
    assert message in str(told.value) + capsys.readouterr().err
    assert not (tmp_path / "r" / "fingerprint.safetensors").exists()


def test_a_network_that_nobody_trained_is_refused(stylegan2, tmp_path):
    config = write_config(tmp_path, stylegan2)
    module = ["--config", str(config), "--run_dir", str(tmp_path / "r")]
    with pytest.raises((ValueError, SystemExit), match="--ckpt_path"):
        evaluate.main(["test", *module])


def test_a_checkpoint_of_another_generator_is_refused_in_one_line(run, tmp_path):
    other = write_stylegan2(tmp_path / "other.safetensors", seed=1)
    with pytest.raises(FingerprintError, match=r"found the generator .*other\.safetensors .*expected that of") as told:
        evaluated(run, tmp_path / "r", f"--model.init_args.generator={other}")
    assert "\n" not in str(told.value)


def test_a_checkpoint_without_fingerprint_is_refused(run, tmp_path, stylegan2):
    saved = torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)
    del saved["fingerprint"]
    torch.save(saved, tmp_path / "other.ckpt")
    config = write_config(tmp_path, stylegan2)
    with pytest.raises(FingerprintError, match="found a checkpoint without fingerprint"):
        evaluate.main(["test", "--config", str(config), "--ckpt_path", str(tmp_path / "other.ckpt"),
                       "--run_dir", str(tmp_path / "r")])  # fmt: skip


def test_a_training_stopped_by_hand_is_called_unfinished_when_tested(stylegan2, tmp_path, monkeypatch, capsys):
    """Ctrl-C in the second of three epochs; the decoder of the first is tested, and read keys with."""
    config = write_config(tmp_path, stylegan2, **{"test.other_generator": None})
    step = LatentFingerprint.training_step

    def stopped(self, batch, batch_idx):
        if self.current_epoch == 1:
            raise KeyboardInterrupt
        return step(self, batch, batch_idx)

    monkeypatch.setattr(LatentFingerprint, "training_step", stopped)
    handler = signal.getsignal(signal.SIGINT)
    with pytest.raises(SystemExit):
        train.main(["--config", str(config), "--run_dir", str(tmp_path / "run"), "--trainer.max_epochs", "3"])
    signal.signal(signal.SIGINT, handler)
    capsys.readouterr()
    evaluated(tmp_path / "run", tmp_path / "tested", *FEW)
    told = "Unfinished training: the weights are those after epoch 1 of 3."
    assert f"warning: {told}" in capsys.readouterr().out.splitlines()
    assert told in (tmp_path / "tested" / "report.html").read_text()
    training = json.loads((tmp_path / "tested" / "provenance.json").read_text())["training"]
    assert (training["epochs"], training["max_epochs"]) == (1, 3)


def test_a_finished_training_and_one_of_before_say_nothing_of_the_kind(run, tmp_path, capsys):
    assert json.loads((run / "provenance.json").read_text())["training"]["epochs"] == 1
    assert "Unfinished" not in (run / "report.html").read_text()
    saved = torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)
    del saved["training"]  # what earlier versions wrote
    (tmp_path / "old" / "checkpoints").mkdir(parents=True)
    torch.save(saved, tmp_path / "old" / "checkpoints" / "last.ckpt")
    shutil.copy(run / "config.yaml", tmp_path / "old" / "config.yaml")
    evaluated(tmp_path / "old", tmp_path / "tested", *FEW)
    assert "Unfinished" not in capsys.readouterr().out
    assert json.loads((tmp_path / "tested" / "provenance.json").read_text())["training"] is None

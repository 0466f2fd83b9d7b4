"""Single images in the report of a test: chosen from the blocks, kept beside them, drawn from the folder alone."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
import torch
from attributor_runs import write_config

import evaluate
import train
from lightning_modules.callbacks import EvaluationReport
from lightning_modules.evaluation.blocks import EvaluationFolder
from lightning_modules.evaluation.explanations import choose_examples, spectrum, stored_explanations

STORED = "blocks/explanations.parquet"
ALONE = ["--trainer.callbacks+=lightning_modules.callbacks.EvaluationReport", "--trainer.callbacks.explained_images"]


def test_the_report_shows_right_and_wrong_answers(trained):
    folder = EvaluationFolder(trained.run)
    found = stored_explanations(folder)
    assert found is not None
    sources = folder.evaluation.settings["sources"]
    assert {(each.label, each.right) for each in found.examples} >= {(label, True) for label in range(len(sources))}
    for each in found.examples:
        assert {"image", "spectrum", "saliency", "seen/artifact"} <= set(each.tensors)
        assert float(each.tensors["saliency"].max()) == 1.0
        assert each.slope is not None
        assert each.slope > 0
        assert sum(each.probabilities) == pytest.approx(1.0)
    assert (trained.run / "figures" / "explanations.png").stat().st_size > 10_000
    page = (trained.run / "report.html").read_text()
    assert "Single images" in page
    assert "The nearest real is held fixed" in page


def test_it_is_made_again_without_the_attributor_and_the_data(trained, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(trained.run, run, ignore=shutil.ignore_patterns("checkpoints", "figures", "report.html"))
    evaluate.main(["report", str(run)])
    for name in ("figures/explanations.png", "report.html"):
        assert (run / name).read_bytes() == (trained.run / name).read_bytes()


def test_two_processes_keep_the_bytes_of_one(trained, tmp_path):
    evaluate.main(["test", "--ckpt_path", trained.checkpoint, "--run_dir", str(tmp_path), "--trainer.devices", "2",
                   "--trainer.strategy", "ddp_fork"])  # fmt: skip
    assert (tmp_path / STORED).read_bytes() == (trained.run / STORED).read_bytes()


def test_their_number_is_a_setting_and_none_is_one(trained, tmp_path):
    test = ["test", "--ckpt_path", trained.checkpoint, "--run_dir", str(tmp_path), *ALONE]
    evaluate.main([*test, "3"])
    found = stored_explanations(EvaluationFolder(tmp_path))
    assert found is not None
    assert 0 < len(found.examples) <= 3
    evaluate.main([*test, "0"])
    assert not (tmp_path / STORED).exists()
    assert "Single images" not in (tmp_path / "report.html").read_text()
    with pytest.raises(ValueError, match=r"explained_images -1.*0 \(none\) or more"):
        EvaluationReport(-1)


def test_one_image_that_fails_costs_no_other(trained, tmp_path, monkeypatch, capsys):
    from lightning_modules.evaluation import explanations

    calls = iter(range(100))

    def failing(*arguments):
        if next(calls) == 1:
            raise OSError("no such picture")
        return pixel_gradient(*arguments)

    pixel_gradient = explanations.pixel_gradient
    monkeypatch.setattr(explanations, "pixel_gradient", failing)
    evaluate.main(["test", "--ckpt_path", trained.checkpoint, "--run_dir", str(tmp_path)])
    assert "not explained in the report: test image" in capsys.readouterr().err
    found = stored_explanations(EvaluationFolder(tmp_path))
    assert found is not None
    assert [each.reason for each in found.examples].count("This image failed.") == 1
    assert sum("saliency" in each.tensors for each in found.examples) == len(found.examples) - 1


@pytest.mark.slow
def test_what_counts_rounded_values_says_so_in_place_of_a_map(tmp_path, gm_root):
    """A branch that gradients pass is shown for itself."""
    model = {"representation": ["raw", "saturation"], "network": "auto", "stem": "auto", "controls": []}
    config = write_config(tmp_path, gm_root, model=model)
    run = tmp_path / "run"
    train.main(["--config", str(config), "--run_dir", str(run), "--trainer.max_epochs", "1"])
    found = stored_explanations(EvaluationFolder(run))
    assert found is not None
    assert {each.reason for each in found.examples} == {
        "The map is of raw alone; no gradient flows through the others (saturation: it counts rounded values)."
    }
    assert all("saliency" in each.tensors for each in found.examples)
    alone = tmp_path / "alone"
    model |= {"representation": "saturation", "network": "linear"}
    config = write_config(tmp_path, gm_root, model=model)
    train.main(["--config", str(config), "--run_dir", str(alone), "--trainer.max_epochs", "1"])
    found = stored_explanations(EvaluationFolder(alone))
    assert found is not None
    assert {each.reason[:8] for each in found.examples} == {"No map: "}
    assert not any("saliency" in each.tensors for each in found.examples)


def test_examples_are_the_first_right_and_the_first_wrong_of_each_source():
    labels = np.array([0, 0, 0, 1, 1, 1])
    named = np.array([1, 0, 0, 1, 1, 0])
    assert choose_examples(labels, named, 2, most=4) == [1, 0, 3, 5]
    assert choose_examples(labels, named, 2, most=8) == [1, 2, 0, 3, 4, 5]
    assert choose_examples(labels, named, 2, most=2) == [1, 0]
    many = np.arange(100)
    assert choose_examples(many, many, 100, most=4) == [0, 99]


def test_spectrum_has_its_peak_at_the_frequency_of_the_image():
    """A cosine of 8 periods on 32 pixels, amplitude 0.25: power (0.25 * 255 / 2)^2 * n at both its frequencies."""
    wave = 0.5 + 0.25 * torch.cos(2 * torch.pi * 8 * torch.arange(32) / 32)
    found = spectrum(wave.expand(3, 32, 32))
    peak = 10 * np.log10((0.25 * 255 / 2) ** 2 * 32 * 32)
    assert float(found[16, 24]) == pytest.approx(peak, abs=0.01)
    assert float(found[16, 8]) == pytest.approx(peak, abs=0.01)
    assert float(found[5, 5]) == pytest.approx(10 * np.log10(1 / 12), abs=0.1)

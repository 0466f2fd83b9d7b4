"""The report of a fingerprint's evaluation: complete, short, empty."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from PIL import Image

from lightning_modules.evaluation.conditions import make_conditions
from lightning_modules.fingerprints.marked_images import MarkedPair
from lightning_modules.metrics.fingerprint_scores import add_images, key_estimates, key_metrics, negative_metrics
from lightning_modules.metrics.intervals import Estimate, proportion
from lightning_modules.reporting.fingerprint_page import FingerprintResults, write_fingerprint_page

BITS = 32
ATTACKS = ["clean", "paper-noise", "paper-combination", "noise_0.05", "noise_0.1", "jpeg_50"]
CONDITIONS = make_conditions(ATTACKS[1:], 0)
FINGERPRINT = {
    "bits": BITS, "shift": -32, "sigma": 4.0, "centred": True, "layout": "flat", "latent_prior": "projected",
    "generator_name": "tiny-gan",
}  # fmt: skip


def results_of(images: int) -> dict[str, Estimate]:
    results: dict[str, Estimate] = {}
    generator = torch.Generator().manual_seed(1)
    for place, name in enumerate(ATTACKS):
        metrics = key_metrics(BITS, prefix=f"test/{name}/")
        keys = torch.rand(images, BITS, generator=generator) < 0.5
        right = torch.rand(images, BITS, generator=generator) < 1 - 0.05 * place
        add_images(metrics, torch.where(right == keys, 2.0, -2.0), keys)
        results |= key_estimates(metrics)
    for kind in ("unmarked", "all"):
        metrics = negative_metrics(BITS, (5e-2, 1e-3, 1e-6), prefix=f"test/negatives/{kind}/")
        logits, keys = torch.randn(2, images, BITS, generator=generator)
        add_images(metrics, logits, keys > 0)
        results |= key_estimates(metrics)
    for name, value in {"fid_before": 12.25, "fid_after": 14.5, "fid_own": 2.5, "psnr": 21.5}.items():
        results[f"test/quality/{name}"] = Estimate(value, value - 1, value + 1, images, "bootstrap 95%")
    return results


def shown(results: dict[str, Estimate], *, examples: int = 2) -> FingerprintResults:
    image = torch.rand(3, 16, 16, generator=torch.Generator().manual_seed(0))
    pairs = [MarkedPair(n, image, image * 0.9, {name: image * 0.5 for name in ATTACKS}) for n in range(examples)]
    settings = {"generator": "tiny", "attack": "paper"}
    return FingerprintResults(
        results, CONDITIONS, pairs, settings, FINGERPRINT, {"test images": "60"}, "amortised", "bce"
    )


def headings(folder: Path) -> list[str]:
    return re.findall(r"<h2[^>]*>(.*?)</h2>", (folder / "report.html").read_text())


def test_a_whole_evaluation_gives_every_section_and_figure(tmp_path: Path):
    (tmp_path / "logs").mkdir()
    (tmp_path / "logs" / "metrics.csv").write_text("epoch,val/clean/bit_accuracy\n0,0.5\n1,0.9\n")
    (tmp_path / "config.yaml").write_text("seed_everything: 12345\n")
    paths = write_fingerprint_page(tmp_path, shown(results_of(60)))
    names = ("robustness", "reliability", "marked_pairs", "training")
    assert paths == {name: tmp_path / "figures" / f"{name}.png" for name in names}
    assert all(Image.open(path).size[0] > 300 for path in paths.values())
    assert headings(tmp_path) == ["Robustness", "False positives", "Quality", "Calibration", "Run"]
    text = (tmp_path / "report.html").read_text()
    for part in (
        "tiny-gan", "100.0\u00a0%", "12.2 → 14.5", "paper-combination", "among 1,000,000 users",
        "seed_everything: 12345", "TPR at 1e-12", "by bits alone, 1e-6", "interval holds nominal", "PSNR in dB", "×5",
        "amortised",
        "(shift -32, sigma 4.0, layout flat, centred)",
    ):  # fmt: skip
        assert part in text


@pytest.mark.parametrize("name", ["test/clean/bit_accuracy", "test/jpeg_50/bit_accuracy", "test/quality/ssim"])
def test_a_single_number_is_enough_for_a_page(tmp_path: Path, name: str):
    write_fingerprint_page(tmp_path, shown({name: proportion(9, 10)}, examples=0))
    assert headings(tmp_path) == ["Quality" if "quality" in name else "Robustness", "Run"]


def test_an_evaluation_that_measured_nothing_still_tells_its_settings(tmp_path: Path):
    assert write_fingerprint_page(tmp_path, shown({}, examples=0)) == {}
    assert headings(tmp_path) == ["Run"]


def test_no_images_give_dashes(tmp_path: Path):
    write_fingerprint_page(tmp_path, shown(results_of(0), examples=0))
    assert headings(tmp_path) == ["Robustness", "False positives", "Quality", "Calibration", "Run"]
    cells = re.findall(r"<td[^>]*>([^<]*)", (tmp_path / "report.html").read_text())
    assert "–" in cells
    assert not any("nan" in cell.lower() for cell in cells)
    assert not (tmp_path / "figures").exists()

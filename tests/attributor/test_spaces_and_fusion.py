"""Artifacts of other spaces, searches set apart, several nearest reals, and their fusion: from training to report."""

from __future__ import annotations

import json

import pytest
import torch
from attributor_runs import write_config

import evaluate
import train
from lightning_modules.attributor import Attributor
from lightning_modules.evaluation import answers
from lightning_modules.networks.fusion import FusionNetwork

SPECTRUM = {"name": "freq", "channels": "grey", "high_pass": True}
SHORT = ["--trainer.max_epochs", "2"]


def trained(folder, gm_root, *arguments, **model):
    settings = {"network": "small_cnn_16", "stem": "auto", "controls": [], **model}
    config = write_config(folder, gm_root, model=settings, data={"cache_dir": str(folder / "cache")})
    found = train.main(["--config", str(config), "--run_dir", str(folder / "run"), *SHORT, *arguments])
    saved = torch.load(folder / "run" / "checkpoints" / "last.ckpt", weights_only=True)
    return config, found, saved


@pytest.fixture(scope="module")
def fused(tmp_path_factory, gm_root):
    folder = tmp_path_factory.mktemp("fused")
    seen = ["raw", {"name": "artifact", "embedding": SPECTRUM, "search_space": "rgb", "neighbours": 3}]
    return folder, *trained(folder, gm_root, representation=seen, flip=True, test_attacks=["jpeg_50"])


NAMES = ["raw", "artifact_freq_grey_residual_near_rgb_3_nearest"]


def test_a_fusion_is_trained_tested_and_explained(fused):
    folder, _, found, saved = fused
    assert set(saved["attributor"]["networks"]) == {"control", *(f"main/{name}" for name in NAMES)}
    assert len(saved["attributor"]["manifolds"]) == 2  # points in both spaces, searched in one
    weights = saved["state_dict"]["networks.networks.main.weights"]
    assert not torch.equal(weights, torch.ones(2))  # validation images have weighed the branches
    metrics = json.loads((folder / "run" / "metrics.json").read_text())
    for name in NAMES:
        for prefix in ("test/", "test/jpeg_50/"):
            assert {f"{prefix}branch/{name}/accuracy", f"{prefix}without/{name}/accuracy"} <= set(metrics)
            alone = metrics[f"{prefix}branch/{name}/accuracy"]["value"]
            other = NAMES[1 - NAMES.index(name)]
            assert alone == metrics[f"{prefix}without/{other}/accuracy"]["value"]  # of two branches
    page = (folder / "run" / "report.html").read_text()
    assert "Branches" in page
    assert "image − nearest real (in freq_grey_residual, nearest in rgb, 3 nearest)" in page
    again = evaluate.main(["test", "--ckpt_path", str(folder / "run"), "--run_dir", str(folder / "again")])
    assert again == {name: value for name, value in found.items() if name.startswith("test/")}


def test_branches_are_weighed_by_attacked_images_too_where_the_training_meets_attacks(tmp_path, gm_root, monkeypatch):
    weighed, tempered = [], []
    fit_weights, fit_temperature = FusionNetwork.fit_weights, answers.fit_temperature

    def weigh(self, alone, labels):
        weighed.append((alone, labels))
        fit_weights(self, alone, labels)

    def temper(logits, labels):
        tempered.append(len(labels))
        return fit_temperature(logits, labels)

    monkeypatch.setattr(FusionNetwork, "fit_weights", weigh)
    monkeypatch.setattr(answers, "fit_temperature", temper)
    seen, attacks = ["raw", "artifact"], {"attack": "noise_0.2", "probability": 1.0}
    trained(tmp_path, gm_root, "--test_after_fit", "false", representation=seen, augmentation=attacks)
    alone, labels = weighed[-1]  # each attacked image follows its clean one
    assert torch.equal(labels[::2], labels[1::2])
    assert not (alone[:, ::2] == alone[:, 1::2]).all(dim=(0, 2)).any()
    assert set(tempered) == {len(labels) // 2}


def test_artifacts_are_of_the_mean_of_the_nearest(fused):
    folder, *_ = fused
    module = Attributor.load_from_checkpoint(folder / "run" / "checkpoints" / "last.ckpt", map_location="cpu")
    represent = module.representations
    rgb, freq = represent._spaces.values()
    image = (torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(0)) * 255).round() / 255
    batch = {"image": image, "content_id": torch.tensor([7])}
    found = represent(batch, NAMES, distances=True)
    points = rgb.manifold.points(torch.arange(len(rgb.manifold)))
    nearest = (points - image).flatten(1).double().norm(dim=1).topk(3, largest=False).indices
    reals = freq.embedding(points[nearest])
    expected = freq.embedding.show(freq.embedding(image) - reals.mean(0, keepdim=True))
    torch.testing.assert_close(found.tensors[NAMES[1]], expected, atol=1e-5, rtol=1e-5)
    assert found.nearest.tolist() == [int(nearest[0])]


def test_the_papers_search_in_the_artifacts_own_space(tmp_path, gm_root):
    _, _, saved = trained(tmp_path, gm_root, embedding="freq", controls=["raw"])
    (manifold,) = saved["attributor"]["manifolds"].values()
    facts = json.loads(bytes(manifold["tensors"]["facts"].tolist()))
    assert facts["embedding"]["name"] == "freq"
    assert facts["shape"] == [3, 32, 17]
    assert (tmp_path / "run" / "figures" / "artifacts.png").is_file()
    image = str(gm_root / "gan-grid" / "00000.png")
    out = evaluate.main(
        ["predict", "--ckpt_path", str(tmp_path / "run"), "--images", image, "--out", str(tmp_path / "p")]
    )
    assert json.loads(out.read_text())["distance"] > 0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"neighbours": 0}, "found neighbours 0, expected 1"),
        ({"representation": ["raw", "raw"]}, "expected each representation once"),
        ({"representation": []}, "expected each representation once"),
        ({"representation": [{"name": "artifact", "neighbors": 2}]}, "did you mean neighbours"),
    ],
)
def test_mistakes_are_refused_at_once(changes, message):
    with pytest.raises(ValueError, match=message):
        Attributor(**changes)


def test_two_processes_fuse_alike(fused, tmp_path):
    folder, *_ = fused
    arguments = ["test", "--ckpt_path", str(folder / "run"), "--run_dir", str(tmp_path / "two")]
    evaluate.main([*arguments, "--trainer.devices", "2", "--trainer.strategy", "ddp_fork"])
    for name in ("metrics.json", "rows.jsonl"):
        assert (tmp_path / "two" / name).read_bytes() == (folder / "run" / name).read_bytes()

"""An attributor under attack: 8-bit image, then embedding, neighbour and network, as for a file from anywhere."""

from __future__ import annotations

import csv
import json

import pytest
import torch
import yaml
from attributor_runs import write_config

import evaluate
import train
from datamodules import GMDataModule
from lightning_modules.attributor import Attributor
from lightning_modules.common.content_ids import content_ids
from lightning_modules.evaluation.conditions import make_conditions
from lightning_modules.representations.augmentation import Augmentation
from lightning_modules.representations.settings import AugmentationSettings

ATTACKS = [
    "jpeg_50", "noise_0.05", "noise_0.1", "paper-noise",
    {"kind": "blur", "sigma": 0.0, "kernel": 3, "name": "nothing"},
]  # fmt: skip


@pytest.fixture(scope="module")
def attacked(trained, tmp_path_factory):
    """The test of the shared training under attacks that a file lists."""
    folder = tmp_path_factory.mktemp("attacked")
    (folder / "attacks.yaml").write_text(yaml.safe_dump(ATTACKS))
    command = ["test", "--ckpt_path", trained.checkpoint, "--run_dir", str(folder / "run")]
    evaluate.main([*command, "--model.init_args.test_attacks", str(folder / "attacks.yaml")])
    return folder / "run"


def rows(run, attack):
    found = [json.loads(line) for line in (run / "rows.jsonl").read_text().splitlines()]
    return {row["file"]: row for row in found if row["attack"] == attack}


def test_every_condition_has_its_numbers_and_the_clean_ones_stay(attacked, trained):
    metrics = json.loads((attacked / "metrics.json").read_text())
    clean = json.loads((trained.run / "metrics.json").read_text())
    assert {name: metrics[name] for name in clean} == clean
    for attack in ("jpeg_50", "noise_0.05", "noise_0.1", "paper-noise", "nothing"):
        for name in ("accuracy", "accuracy_macro", "fdr", "control/raw/accuracy", "recall/gan-grid"):
            assert metrics[f"test/{attack}/{name}"]["n"] > 0
    assert metrics["test/noise_0.1/accuracy"]["value"] < metrics["test/accuracy"]["value"]
    assert metrics["test/nothing/accuracy"]["value"] == metrics["test/accuracy"]["value"]


def test_a_condition_that_changes_no_pixel_is_named(attacked):
    metrics = json.loads((attacked / "metrics.json").read_text())
    assert metrics["test/nothing/changed_images"]["value"] == 0.0
    assert metrics["test/jpeg_50/changed_images"]["value"] == 1.0
    page = (attacked / "report.html").read_text()
    assert "No pixel of any image was changed by nothing" in page
    assert (attacked / "figures" / "robustness.png").is_file()


def test_the_long_table_holds_strengths_as_numbers(attacked):
    with (attacked / "results.csv").open() as file:
        table = list(csv.DictReader(file))
    points = {row["strength"]: row["attack"] for row in table if (row["kind"], row["metric"]) == ("noise", "accuracy")}
    assert points == {"0.05": "noise_0.05", "0.1": "noise_0.1", "": "paper-noise"}
    assert {row["part"] for row in table} >= {"test", "control/raw", "source/gan-grid", "trivial/spectrum"}
    assert all(float(row["low"]) <= float(row["value"]) <= float(row["high"]) for row in table if row["low"])


def test_the_neighbour_is_that_of_the_attacked_pixels(attacked, trained):
    """Distances against a search by hand over the manifold's points."""
    module = Attributor.load_from_checkpoint(trained.checkpoint, map_location="cpu")
    data = GMDataModule(**yaml.safe_load(trained.config.read_text())["data"]["init_args"])
    data.setup()
    images = data.images("test")
    chosen = [0, 7, 21]
    pixels = torch.stack([images[index]["image"] for index in chosen]).float() / 255
    condition = next(each for each in make_conditions(["noise_0.05"], module.seed) if each.attack is not None)
    seen = condition.apply(pixels, torch.tensor(chosen))
    (manifold,) = [space.manifold for space in module.representations._spaces.values()]
    points = manifold.points(torch.arange(len(manifold)))
    expected = torch.cdist(seen.double().flatten(1), points.double().flatten(1)).min(dim=1).values
    found = rows(attacked, "noise_0.05")
    clean = rows(attacked, "clean")
    for index, distance in zip(chosen, expected.tolist(), strict=True):
        file = images[index]["path"]
        row = next(row for name, row in found.items() if file.endswith(name) or name.endswith(file))
        assert row["distance"] == pytest.approx(distance, rel=1e-6)
        assert row["distance"] != clean[row["file"]]["distance"]


def test_augmentation_attacks_a_share_that_follows_from_image_and_seed_alone():
    images = torch.rand(64, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    images = (images * 255).round() / 255
    batch = {"image": images, "content_id": content_ids(images), "label": torch.zeros(64, dtype=torch.long)}
    augment = Augmentation(AugmentationSettings("noise_0.1", probability=0.4))
    found = augment(batch, 3)
    changed = (found["image"] != images).flatten(1).any(dim=1)
    assert torch.equal(changed, found["attacked"])
    assert 0.2 < changed.float().mean() < 0.6
    assert torch.equal(found["content_id"], content_ids(found["image"]))
    part = {name: value[40:] for name, value in batch.items()}
    assert torch.equal(augment(part, 3)["image"], found["image"][40:])
    assert not torch.equal(augment(batch, 4)["image"], found["image"])
    weak = Augmentation(AugmentationSettings("noise_0.1", probability=1.0, strength=0.1))(batch, 3)["image"]
    assert float((weak - images).std()) == pytest.approx(0.01, rel=0.3)
    for off in (AugmentationSettings(), AugmentationSettings("noise_0.1", probability=0.0)):
        assert Augmentation(off)(batch, 3) is batch


def test_attacks_in_a_list_follow_each_other_each_with_its_own_draw():
    images = torch.rand(200, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    images = (images * 255).round() / 255
    batch = {"image": images, "content_id": content_ids(images), "label": torch.zeros(200, dtype=torch.long)}
    black = {"kind": "blur", "sigma": 3.0, "kernel": 9, "probability": 0.5}
    listed = AugmentationSettings([black, "noise_0.1"], probability=0.25)
    assert listed.steps() == [({"kind": "blur", "sigma": 3.0, "kernel": 9}, 0.5), ("noise_0.1", 0.25)]
    found = Augmentation(listed)(batch, 3)
    first = Augmentation(AugmentationSettings([black]))(batch, 3)  # the draw of the first is as if it were alone
    alone = Augmentation(AugmentationSettings({key: value for key, value in black.items() if key != "probability"}))
    assert torch.equal(first["image"], alone(batch, 3)["image"])
    noisy = (found["image"] != first["image"]).flatten(1).any(dim=1)
    assert 0.15 < noisy.float().mean() < 0.35
    shares = [float((noisy & first["attacked"]).float().mean()), float((noisy & ~first["attacked"]).float().mean())]
    assert min(shares) > 0.06  # an eighth each: the two draws have nothing to do with each other
    assert torch.equal(found["attacked"], noisy | first["attacked"])
    assert torch.equal(found["content_id"], content_ids(found["image"]))
    assert torch.equal(found["image"], (found["image"] * 255).round() / 255)
    with pytest.raises(ValueError, match=r"augmentation.attack\[1\].probability 1.5, expected 0 to 1"):
        AugmentationSettings(["noise_0.1", {**black, "probability": 1.5}])


@pytest.mark.parametrize("change", [{"attack": "noise"}, {"attack": "jpeg_50", "probability": 2.0}])
def test_augmentation_that_cannot_be_is_refused(change):
    with pytest.raises(ValueError, match=r"noise_NUMBER|augmentation.probability 2.0, expected 0 to 1"):
        Augmentation(AugmentationSettings(**change))


@pytest.mark.slow
def test_a_training_on_attacked_images_withstands_them_better(tmp_path, gm_root):
    found = {}
    for attack in (None, "noise_0.1"):
        model = {"controls": [], "test_attacks": ["noise_0.1"], "augmentation": {"attack": attack, "probability": 1.0}}
        config = write_config(tmp_path, gm_root, model=model, trainer={"max_epochs": 12})
        run = tmp_path / str(attack)
        train.main(["--config", str(config), "--run_dir", str(run)])
        metrics = json.loads((run / "metrics.json").read_text())
        found[attack] = metrics["test/noise_0.1/cross_entropy"]["value"]
    assert found["noise_0.1"] < 0.8 * found[None]

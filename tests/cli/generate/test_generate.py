"""`evaluate.py generate` for one generator: what a user types, what it writes, what it says to mistakes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

import evaluate
from datamodules.images.problems import GMDataError
from lightning_modules.common.images import to_uint8
from lightning_modules.generators import load_generator
from lightning_modules.generators.bundled.load import load_bundled
from lightning_modules.generators.checkpoints.own_file import write_generator
from lightning_modules.generators.checkpoints.stored import StoredGenerator
from lightning_modules.generators.image_writing import synthesize_block
from lightning_modules.generators.stylegan2 import StyleGAN2Generator


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    torch.manual_seed(0)
    arguments = {"image_size": 16, "z_dim": 8, "w_dim": 8, "mapping_layers": 2, "channels": [8, 8, 8]}
    tensors = StyleGAN2Generator(**arguments).state_dict()
    path = tmp_path_factory.mktemp("weights") / "small.safetensors"
    write_generator(StoredGenerator("stylegan2", arguments, dict(tensors), {"format": "test", "file": "none"}), path)
    return path


def generate(*args):
    return evaluate.main(["generate", *map(str, args)])


def said(capsys, *args):
    """What is said to a mistake."""
    with pytest.raises(SystemExit) as caught:
        generate(*args)
    assert caught.value.code not in (0, None)
    return str(caught.value.code) + capsys.readouterr().err


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_a_config_and_the_command_line_name_the_generator(checkpoint, tmp_path, capsys):
    config = {"generator": str(checkpoint), "n": 3, "seed": 7, "options": {"truncation": 0.5}}
    (tmp_path / "a.yaml").write_text(yaml.safe_dump(config))
    folder = generate("--config", tmp_path / "a.yaml", "--out", tmp_path / "images")
    assert folder == tmp_path / "images"
    assert capsys.readouterr().out.splitlines()[-1] == str(folder)
    generator = load_generator(checkpoint, truncation=0.5)
    expected = to_uint8(generator.synthesize(generator.sample_latents(32, seed=7)))[:3]
    for index, image in enumerate(expected):
        with Image.open(folder / f"{index:07d}.png") as written:
            np.testing.assert_array_equal(np.asarray(written), image.permute(1, 2, 0).numpy())
    typed = ("--generator", checkpoint, "--n", 3, "--seed", 7, "--options.truncation", 0.5, "--kind", "stylegan2")
    other = generate(*typed, "--out", tmp_path / "typed")
    assert contents(other) == contents(folder)
    assert len(contents(folder)) == 4


def test_a_bundled_source_is_known_by_name(tmp_path, capsys):
    folder = generate("--generator", "gan-dcgan", "--n", 2, "--out", tmp_path / "a")
    with Image.open(folder / "0000001.png") as image:
        np.testing.assert_array_equal(
            np.asarray(image), synthesize_block(load_bundled("gan-dcgan"), 0, 0)[1].permute(1, 2, 0).numpy()
        )
    message = said(capsys, "--generator", "gan-dcgan", "--n", 2, "--out", tmp_path / "b", "--options.truncation", 0.5)
    assert "bundled source gan-dcgan, which has none" in message


def test_mistakes_are_said_before_anything_is_written(checkpoint, tmp_path, capsys):
    out = ("--n", 2, "--out", tmp_path / "images")
    known = ("--generator", checkpoint, *out)
    near = checkpoint.with_name("smal.safetensors")
    assert f"did you mean {checkpoint}" in said(capsys, "--generator", near, *out)
    assert "found option 'steps' for StyleGAN2" in said(capsys, *known, "--options.steps", 3)
    assert "found seed -1, expected 0 <= seed < 2**64" in said(capsys, *known, "--seed=-1")
    assert "expected noise fixed(SEED), buffers or none" in said(capsys, *known, "--options.noise", "random")
    assert "found a stylegan2 generator, expected latent_diffusion" in said(
        capsys, *known, "--kind", "latent_diffusion"
    )
    assert "found n=0 and processes=1" in said(
        capsys, "--generator", checkpoint, "--n", 0, "--out", tmp_path / "images"
    )
    assert not (tmp_path / "images").exists()
    generate(*known)
    assert "seed 0, expected 1; choose another --out" in said(capsys, *known, "--seed", 1)


def test_the_keys_say_which_of_the_two_is_meant(checkpoint, tmp_path, capsys):
    out = ("--n", 2, "--out", tmp_path / "images")
    assert "unknown key 'generater': did you mean generator?" in said(capsys, "--generater", checkpoint, *out)
    assert "unknown key 'sorces': did you mean sources?" in said(capsys, "--sorces", "[gan-dcgan]", *out)
    both = ("--generator", checkpoint, "--sources", "[gan-dcgan]")
    assert "found both `generator` (images of one) and `sources`" in said(capsys, *both, *out)
    assert "unknown key 'option': did you mean options" in said(capsys, "--generator", checkpoint, "--option", 3, *out)
    (tmp_path / "a.yaml").write_text(yaml.safe_dump({"generator": str(checkpoint), "processs": 2}))
    assert "unknown key 'processs': did you mean processes" in said(capsys, "--config", tmp_path / "a.yaml", *out)
    assert not (tmp_path / "images").exists()


def test_no_key_that_says_what_to_make_is_said_by_the_names_of_all_three(tmp_path, capsys):
    message = said(capsys, "--n", 5)
    assert (
        "found none of `generator` (images of one), `fingerprint` (those with a user's key in them) and `sources`"
        in (message)
    )
    (tmp_path / "a.yaml").write_text(yaml.safe_dump({"n": 5, "out": str(tmp_path / "images")}))
    assert "found none of `generator`" in said(capsys, "--config", tmp_path / "a.yaml")
    assert "none.yaml" in said(capsys, "--config", tmp_path / "none.yaml", "--n", 5)
    assert "unknown key 'fingerprnt': did you mean fingerprint?" in said(capsys, "--fingerprnt", "a", "--n", 5)


def test_help_names_all_three(capsys):
    with pytest.raises(SystemExit):
        generate("--help")
    text = " ".join(capsys.readouterr().out.split())
    assert "key `generator`" in text
    assert "keys `fingerprint` and `user`" in text
    assert "key `sources`" in text


@pytest.mark.slow
def test_the_command_line_gives_the_same_bytes_on_two_processes(checkpoint, tmp_path):
    command = [sys.executable, str(Path(evaluate.__file__)), "generate", "--generator", str(checkpoint), "--n", "70"]
    for processes in (1, 2):
        out = ["--out", str(tmp_path / str(processes)), "--processes", str(processes)]
        subprocess.run([*command, *out], check=True, capture_output=True)
    assert contents(tmp_path / "1") == contents(tmp_path / "2")


def test_a_data_set_takes_reals_of_mixed_sizes_cut_and_scaled(tmp_path):
    for split in ("train", "test"):
        (tmp_path / "photos" / split).mkdir(parents=True)
        for number, size in enumerate([(50, 40), (64, 48)]):
            Image.new("RGB", size, (10 * number, 0, 90)).save(tmp_path / "photos" / split / f"{number}.jpg")
    known = ("--sources", "[gan-dcgan]", "--n", 2, "--reals", "folder", "--reals_root", tmp_path / "photos")
    known += ("--out", tmp_path / "gm")
    with pytest.raises(GMDataError, match="or set `reals_center_crop` and/or `reals_resize`"):
        generate(*known)
    assert not (tmp_path / "gm").exists()
    folder = generate(*known, "--reals_center_crop", 40, "--reals_resize", 32)
    sizes = {Image.open(file).size for file in folder.glob("*/*.png")}
    assert sizes == {(32, 32)}
    with pytest.raises(ValueError, match="test split, center_crop 40 px, resize 32 px"):  # no two sizes in one folder
        generate(*known, "--reals_center_crop", 40, "--reals_resize", 16)

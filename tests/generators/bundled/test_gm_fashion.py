"""The GM-Fashion data set on disk: the same bytes however it is built, never two data sets in one folder."""

from __future__ import annotations

import gzip
import hashlib
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from lightning_modules.generators.bundled import gm_data_set as gm_fashion
from lightning_modules.generators.bundled.gm_data_set import Reals, build_gm_data_set, choose_reals
from lightning_modules.generators.bundled.manifest import bundled_sources
from lightning_modules.generators.small_networks.beta_vae import BetaVAEDecoder
from lightning_modules.generators.small_networks.dcgan import DCGANGenerator

CONFIGS = Path(__file__).parents[3] / "configs" / "gm_fashion"


def contents(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.fixture
def sources():
    torch.manual_seed(0)
    return {"gan-small": DCGANGenerator(4, 8).freeze(), "vae-small": BetaVAEDecoder(4, 4).freeze()}


@pytest.fixture
def reals():
    pictures = np.random.default_rng(0).integers(0, 256, (30, 32, 32, 3), dtype=np.uint8)
    return {"real-noise": Reals(pictures[:10], 6, "noise, test split", "CC0-1.0")}


def build(out, sources, reals, n=5, seed=0, **options):
    build_gm_data_set(out, sources, n, seed, reals, progress=False, **options)


def test_layout_and_description(sources, reals, tmp_path):
    build(tmp_path, sources, reals)
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["gan-small", "real-noise", "sources.yaml", "vae-small"]
    assert len(list((tmp_path / "gan-small").iterdir())) == 5
    assert len(list((tmp_path / "real-noise").iterdir())) == 6
    description = yaml.safe_load((tmp_path / "sources.yaml").read_text())
    assert description["vae-small"] == {"family": "vae", "images": 5, "seed": 0, "black_below": 8}
    assert description["real-noise"]["origin"] == "noise, test split"
    assert description["real-noise"]["licence"] == "CC0-1.0"


def pixels_of(folder):
    found = []
    for path in sorted(folder.glob("*.png")):
        with Image.open(path) as image:
            found.append(np.asarray(image))
    return np.stack(found)


def test_every_image_stands_on_one_black_ground(sources, reals, tmp_path):
    """Generated or real: values below a threshold are written as 0, all others as they are."""
    below = 140  # untrained generators make grey images; the default is 8, as the description says
    build(tmp_path / "one", sources, reals, black_below=below)
    build(tmp_path / "own", sources, reals, black_below=0)
    for name in (*sources, "real-noise"):
        ground, own = pixels_of(tmp_path / "one" / name), pixels_of(tmp_path / "own" / name)
        assert ((own > 0) & (own < below)).any()
        np.testing.assert_array_equal(ground, np.where(own < below, 0, own))


def test_a_folder_on_another_ground_is_not_mixed_in(sources, reals, tmp_path):
    build(tmp_path, sources, reals, black_below=0)
    with pytest.raises(ValueError, match="black_below"):
        build(tmp_path, sources, reals)


@pytest.mark.parametrize("below", [-1, 256])
def test_a_ground_is_an_8_bit_value(sources, reals, tmp_path, below):
    with pytest.raises(ValueError, match="0 to 255"):
        build(tmp_path, sources, reals, black_below=below)


def test_reals_are_drawn_without_repetition_and_stored_unchanged(sources, reals, tmp_path):
    build(tmp_path, sources, reals, black_below=0)
    pictures = reals["real-noise"].pictures
    found = set()
    for path in (tmp_path / "real-noise").iterdir():
        with Image.open(path) as image:
            matches = np.flatnonzero((pictures == np.asarray(image)).all(axis=(1, 2, 3)))
        assert len(matches) == 1
        found.add(int(matches[0]))
    assert len(found) == 6


def test_choice_of_reals_grows_and_depends_on_the_seed():
    assert len(np.unique(choose_reals(50, 50, seed=1))) == 50
    np.testing.assert_array_equal(choose_reals(50, 20, seed=1)[:5], choose_reals(50, 5, seed=1))
    assert (choose_reals(50, 20, seed=1) != choose_reals(50, 20, seed=2)).any()


def test_same_bytes_after_interruption_and_growth(sources, reals, tmp_path):
    build(tmp_path / "whole", sources, reals, n=40)
    build(tmp_path / "grown", sources, reals, n=3)
    build(tmp_path / "grown", sources, reals, n=40)
    (tmp_path / "grown" / "vae-small" / "0000007.png").unlink()
    build(tmp_path / "grown", sources, reals, n=40)
    assert contents(tmp_path / "grown") == contents(tmp_path / "whole")


def test_a_folder_made_in_another_way_is_refused(sources, reals, tmp_path):
    build(tmp_path / "set", sources, reals)
    before = contents(tmp_path / "set")
    with pytest.raises(ValueError, match="choose another folder"):
        build(tmp_path / "set", sources, reals, seed=1)
    with pytest.raises(ValueError, match="choose another folder"):
        build(tmp_path / "set", sources, reals, n=4)
    with pytest.raises(ValueError, match="vae-small, which is not asked for"):
        build(tmp_path / "set", {"gan-small": sources["gan-small"]}, reals)
    assert contents(tmp_path / "set") == before
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "letter.txt").write_text("keep me")
    with pytest.raises(ValueError, match=r"no sources\.yaml"):
        build(tmp_path / "other", sources, reals)


def test_too_few_reals_and_unknown_sources_are_told_before_anything_is_written(sources, reals, tmp_path):
    short = {"real-noise": Reals(reals["real-noise"].pictures, 11, "noise", "CC0-1.0")}
    with pytest.raises(ValueError, match="found 10 images in noise, asked for 11"):
        build(tmp_path / "set", sources, short)
    with pytest.raises(ValueError, match="gan-dcgan"):
        build(tmp_path / "set", ["gan-biggan"], reals)
    assert not (tmp_path / "set").exists()


def test_shipped_images_are_used_and_framed(reals, tmp_path, monkeypatch):
    grey = np.random.default_rng(1).integers(0, 256, (3, 28, 28), dtype=np.uint8)
    monkeypatch.setattr(gm_fashion, "shipped_images", lambda source, seed: grey)
    build(tmp_path / "ground", ["vae-beta-vae"], reals, n=3)
    blackened = pixels_of(tmp_path / "ground" / "vae-beta-vae")[:, 2:-2, 2:-2, 0]
    np.testing.assert_array_equal(blackened, np.where(grey < 8, 0, grey))
    build(tmp_path / "shipped", ["vae-beta-vae"], reals, n=4, black_below=0)
    for i in range(3):
        with Image.open(tmp_path / "shipped" / "vae-beta-vae" / f"{i:07d}.png") as image:
            pixels = np.asarray(image)
        for channel in range(3):
            np.testing.assert_array_equal(pixels[2:-2, 2:-2, channel], grey[i])
        assert pixels.astype(int).sum() == 3 * grey[i].astype(int).sum()
    build(tmp_path / "sampled", ["vae-beta-vae"], reals, n=4, black_below=0, use_shipped_images=False)
    shipped, sampled = contents(tmp_path / "shipped"), contents(tmp_path / "sampled")
    differing = {name for name in shipped if shipped[name] != sampled[name]}
    assert differing == {f"vae-beta-vae/{i:07d}.png" for i in range(3)}  # the fourth is sampled in both


def test_shipped_images_that_were_changed_are_refused(tmp_path):
    from lightning_modules.generators.bundled.manifest import shipped_images

    content = gzip.compress(bytes(2 * 28 * 28), mtime=0)
    entry = {"images": {"file": "a.gz", "n": 2, "seed": 0, "sha256": hashlib.sha256(content).hexdigest()}}
    (tmp_path / "sources.yaml").write_text(yaml.safe_dump({"score-a": entry}))
    (tmp_path / "a.gz").write_bytes(content)
    assert shipped_images("score-a", 0, tmp_path).shape == (2, 28, 28)
    (tmp_path / "a.gz").write_bytes(gzip.compress(bytes(28 * 28), mtime=0))
    with pytest.raises(ValueError, match="sha256"):
        shipped_images("score-a", 0, tmp_path)


def test_every_image_stands_on_one_white_ground(sources, reals, tmp_path):
    build(tmp_path / "one", sources, reals, black_below=0, white_above=60)
    build(tmp_path / "own", sources, reals, black_below=0)
    for name in (*sources, "real-noise"):
        ground, own = pixels_of(tmp_path / "one" / name), pixels_of(tmp_path / "own" / name)
        assert ((own > 60) & (own < 255)).any()
        np.testing.assert_array_equal(ground, np.where(own > 60, 255, own))
    description = yaml.safe_load((tmp_path / "one" / "sources.yaml").read_text())
    assert {entry["white_above"] for entry in description.values()} == {60}
    assert "white_above" not in (tmp_path / "own" / "sources.yaml").read_text()
    with pytest.raises(ValueError, match="choose another folder"):
        build(tmp_path / "one", sources, reals, black_below=0)
    with pytest.raises(ValueError, match="found white_above=6 and black_below=8"):
        build(tmp_path / "two", sources, reals, white_above=6)


def test_shipped_images_in_colour_are_written_as_they_are(reals, tmp_path, monkeypatch):
    coloured = np.random.default_rng(1).integers(0, 256, (3, 32, 32, 3), dtype=np.uint8)
    monkeypatch.setattr(gm_fashion, "shipped_images", lambda source, seed: coloured)
    build(tmp_path, ["vae-beta-vae"], reals, n=3, black_below=0)
    np.testing.assert_array_equal(pixels_of(tmp_path / "vae-beta-vae"), coloured)


def test_two_sources_of_one_folder_are_refused(reals, tmp_path, monkeypatch):
    with pytest.raises(ValueError, match=r"found sources gan-dcgan and emoji/gan-dcgan, both of folder gan-dcgan"):
        build(tmp_path / "set", ["gan-dcgan", "emoji/gan-dcgan"], reals)
    assert not (tmp_path / "set").exists()


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.yaml")), ids=lambda path: path.stem)
def test_configs_name_bundled_sources_and_stay_short(path):
    text = path.read_text()
    assert len(text.splitlines()) < 40
    assert yaml.safe_load(text)["sources"] == sorted(
        (source for source in bundled_sources() if "/" not in source), key=yaml.safe_load(text)["sources"].index
    )

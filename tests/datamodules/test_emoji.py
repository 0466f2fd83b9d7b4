"""Noto emoji from a package folder in miniature: pasted on white, split by look-alikes; and the part that ships."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image

from datamodules import RealImagesDataModule
from datamodules.real import load_real_set
from datamodules.real.emoji import CLASSES, LICENCE, SAMPLE_ROOT, load_emoji_sample, on_white, place_of, write_sample

TONES = ("1F3FB", "1F3FC", "1F3FF")
NAMES = [f"{0x1F300 + i:X}" for i in range(60)]


def file_name(points: str) -> str:
    return f"{points.lower()}.png"


@pytest.fixture(scope="module")
def package(tmp_path_factory):
    """60 emoji, each with a man of three skin tones; the last two pictures are equal to the first."""
    root = tmp_path_factory.mktemp("package")
    folder = root / "img" / "google" / "64"
    folder.mkdir(parents=True)
    rng, entries = np.random.default_rng(0), []
    for number, points in enumerate(NAMES):
        man = f"{points}-200D-2642-FE0F"
        tones = {tone: f"{points}-{tone}-200D-2642-FE0F" for tone in TONES}
        variations = {tone: {"image": file_name(name), "has_img_google": True} for tone, name in tones.items()}
        category = CLASSES[number % len(CLASSES)]
        entries.append({"unified": points, "image": file_name(points), "category": category, "has_img_google": True})
        entry = {"unified": man, "image": file_name(man), "category": category, "has_img_google": True}
        entries.append({**entry, "skin_variations": variations})
        for name in (points, man, *tones.values()):
            Image.fromarray(rng.integers(0, 256, (64, 64, 4), dtype=np.uint8)).save(folder / file_name(name))
    for name in ("1F400", "1F401"):
        first = (folder / file_name(NAMES[0])).read_bytes()
        (folder / file_name(name)).write_bytes(first)
        entries.append({"unified": name, "image": file_name(name), "category": "Flags", "has_img_google": True})
    entries.append({"unified": "1F402", "image": "1f402.png", "category": "Flags", "has_img_google": False})
    (root / "emoji.json").write_text(json.dumps(entries))
    return root


def pictures(real_set):
    return [real_set.pictures[i].tobytes() for i in range(len(real_set))]


def test_pixels_are_pasted_on_white_and_averaged_in_one_rounding():
    rgba = np.random.default_rng(1).integers(0, 256, (64, 64, 4), dtype=np.uint8)
    colour, alpha = rgba[..., :3].astype(float), rgba[..., 3:] / 255
    pasted = alpha * colour + (1 - alpha) * 255
    assert np.abs(on_white(rgba, 64) - pasted).max() <= 0.5 + 1e-9
    halved = pasted.reshape(32, 2, 32, 2, 3).mean(axis=(1, 3))
    assert np.abs(on_white(rgba, 32) - halved).max() <= 0.5 + 1e-9
    rgba[..., 3] = 0
    assert (on_white(rgba, 32) == 255).all()


def test_every_picture_is_once_in_one_split_with_its_class(package):
    splits = {split: load_real_set("emoji", package, split) for split in ("train", "test")}
    found = {split: pictures(real_set) for split, real_set in splits.items()}
    assert len(found["train"]) + len(found["test"]) == 60 * 5  # without the two repetitions, and what has no picture
    assert len({*found["train"], *found["test"]}) == 60 * 5
    assert 0.05 < len(found["test"]) / 300 < 0.4
    for real_set in splits.values():
        assert (real_set.name, real_set.licence, real_set.classes) == ("emoji", LICENCE, CLASSES)
        assert real_set.pictures[0].shape == (32, 32, 3)
    assert splits["train"].labels.tolist()[:2] == [0, 0] or place_of(NAMES[0])[0] == "test"


def test_both_sizes_have_the_same_pictures(package):
    small, large = (load_real_set(name, package, "train") for name in ("emoji", "emoji_64"))
    assert len(small) == len(large)
    assert large.pictures[0].shape == (64, 64, 3)
    halved = large.pictures[5].reshape(32, 2, 32, 2, 3).astype(float).mean(axis=(1, 3))
    assert np.abs(small.pictures[5] - halved).max() <= 1.0  # 64 px were rounded before


def test_look_alikes_are_on_one_side():
    running = ["1F3C3", "1F3C3-200D-2642-FE0F", "1F3C3-1F3FF-200D-2640-FE0F", "1F3C3-200D-27A1-FE0F"]
    assert len({place_of(points) for points in running}) == 1
    farmers = ["1F468-200D-1F33E", "1F469-1F3FB-200D-1F33E", "1F9D1-200D-1F33E"]
    assert len({place_of(points) for points in farmers}) == 1
    places = [place_of(name) for name in NAMES]
    assert {split for split, _ in places} == {"train", "test"}
    assert all(0 <= place < 1 for _, place in places)
    assert place_of("1F468") != place_of("1F469")  # nothing would be left of them


def test_a_folder_that_is_no_package_says_how_to_get_it(tmp_path, package):
    with pytest.raises(FileNotFoundError, match=r"npm install emoji-datasource-google@16\.0\.0.*npm pack.*emoji_samp"):
        load_real_set("emoji", tmp_path)
    (tmp_path / "emoji.json").write_text((package / "emoji.json").read_text())
    with pytest.raises(FileNotFoundError, match=r"no img/google/64/1f300\.png .*npm install"):
        load_real_set("emoji", tmp_path)
    for content in ("{", "[1]", '[{"unified": "1F300"}]', '{"a": 1}'):
        (tmp_path / "emoji.json").write_text(content)
        with pytest.raises(ValueError, match="not the list of emoji-datasource-google"):
            load_real_set("emoji", tmp_path)


def test_a_damaged_picture_is_named(tmp_path, package):
    folder = tmp_path / "img" / "google" / "64"
    folder.mkdir(parents=True)
    entry = {"unified": NAMES[0], "image": "a.png", "category": "Flags", "has_img_google": True}
    (tmp_path / "emoji.json").write_text(json.dumps([entry]))
    split = place_of(NAMES[0])[0]
    (folder / "a.png").write_bytes(b"no picture")
    with pytest.raises(ValueError, match=r"a\.png: no picture that can be read"):
        load_real_set("emoji", tmp_path, split).pictures[0]
    Image.new("RGBA", (20, 30)).save(folder / "a.png")
    with pytest.raises(ValueError, match=r"a\.png: 20 x 30 px, expected 64 x 64"):
        load_real_set("emoji", tmp_path, split).pictures[0]


def test_sample_is_a_part_of_the_set(package, tmp_path, monkeypatch):
    write_sample(package, tmp_path)
    monkeypatch.setattr("datamodules.real.emoji.SAMPLE_ROOT", tmp_path)
    for split in ("train", "test"):
        whole, part = load_real_set("emoji", package, split), load_emoji_sample(None, split)
        labels = dict(zip(pictures(whole), whole.labels.tolist(), strict=True))
        assert 0 < len(part) < len(whole)
        assert [labels[picture] for picture in pictures(part)] == part.labels.tolist()


def test_the_sample_that_ships_is_small_and_has_its_licence():
    train, test = (load_real_set("emoji_sample", split=split) for split in ("train", "test"))
    assert (len(train), len(test)) == (978, 337)
    assert not {*pictures(train)} & {*pictures(test)}
    assert {*train.labels.tolist()} == set(range(len(CLASSES)))
    corners = np.stack([test.pictures[i][0, 0] for i in range(len(test))])
    assert (corners == 255).mean() > 0.9
    assert sum(path.stat().st_size for path in SAMPLE_ROOT.glob("*.xz")) < 1e6
    assert "Apache License" in (SAMPLE_ROOT / "LICENSE").read_text()


def test_mirrored_pictures_double_a_training_set():
    plain, doubled = (RealImagesDataModule("emoji_sample", mirrored=mirrored) for mirrored in (False, True))
    for module in (plain, doubled):
        module.setup("fit")
    count = len(plain.train_set)
    assert len(doubled.train_set) == 2 * count
    for index in (0, 3, count - 1):
        first, second = doubled.train_set[index], doubled.train_set[count + index]
        assert (first["image"] == plain.train_set[index]["image"]).all()
        assert (second["image"] == first["image"].flip(-1)).all()
        assert second["label"] == first["label"]
        assert (first["index"], second["index"]) == (index, count + index)

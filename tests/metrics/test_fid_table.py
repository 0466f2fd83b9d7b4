from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from small_extractors import noise, projection

from lightning_modules.metrics.fid_table import FLOOR, frechet_table, main, read_folder
from lightning_modules.metrics.frechet import frechet_distance_of_features

REALS = noise(80, 1)
SOURCES = {"far": noise(30, 2, brightness=0.3), "near": noise(30, 3, brightness=0.05)}


def test_rows_are_distances_to_the_same_reals_and_the_floor_to_others():
    extractor = projection()
    table = frechet_table(SOURCES, REALS, extractor, seed=5, batch_size=7)
    drawn = np.random.default_rng(5).permutation(80)[:60]
    reference = extractor(REALS[drawn[:30]])
    for name, images in SOURCES.items():
        assert table.distances[name] == pytest.approx(
            frechet_distance_of_features(extractor(images), reference).item(), rel=1e-9
        )
    floor = frechet_distance_of_features(extractor(REALS[drawn[30:]]), reference).item()
    assert table.distances[FLOOR] == pytest.approx(floor, rel=1e-9)
    assert 0 < table.distances[FLOOR] < table.distances["near"] < table.distances["far"]
    assert (table.metric, table.n, table.d, table.seed) == ("fid_projection", 30, 6, 5)


def test_markdown_lists_the_nearest_first_and_the_floor_last():
    rows = frechet_table(SOURCES, REALS, projection()).to_markdown().splitlines()
    assert rows[0] == "| source | fid_projection | n | d |"
    assert [row.split(" | ")[0] for row in rows[2:]] == ["| near", "| far", "| reals (other 30)"]
    assert all(row.endswith("| 30 | 6 |") for row in rows[2:])


def test_unequal_numbers_are_refused_unless_n_is_given():
    unequal = {**SOURCES, "near": SOURCES["near"][:20]}
    with pytest.raises(ValueError, match=r"different numbers of images: {'far': 30, 'near': 20}.*--n"):
        frechet_table(unequal, REALS, projection())
    table = frechet_table(unequal, REALS, projection(), n=20)
    assert table.n == 20
    assert table.distances["far"] == frechet_table(
        {"far": SOURCES["far"][:20]}, REALS, projection()
    ).distances["far"]  # fmt: skip


def test_too_few_images_are_refused():
    with pytest.raises(ValueError, match=r"asked for 30 images of each .* 60 reals .* found 59 reals; n from 2"):
        frechet_table(SOURCES, REALS[:59], projection())
    with pytest.raises(ValueError, match=r"of sources {'far': 30, 'near': 30}; n from 2 to 30"):
        frechet_table(SOURCES, REALS, projection(), n=31)
    with pytest.raises(ValueError, match="at least one, and none called 'reals'"):
        frechet_table({}, REALS, projection())


def write(folder: Path, images: torch.Tensor) -> Path:
    folder.mkdir()
    for i, image in enumerate(images):
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(folder / f"{i:05d}.png")
    return folder


def test_command_reads_folders_and_writes_the_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    images = {name: noise(12, seed, side=32) for seed, name in enumerate(("a", "b"))}
    folders = [write(tmp_path / name, part) for name, part in images.items()]
    reals = write(tmp_path / "held-out", noise(24, 7, side=32))
    table = main([*map(str, folders), "--reals", str(reals), "--out", str(tmp_path / "out")])
    assert list(table.distances) == ["a", "b", FLOOR]
    assert capsys.readouterr().out == table.to_markdown()
    assert (tmp_path / "out" / "fid_fashion_cnn.md").read_text() == table.to_markdown()
    assert json.loads((tmp_path / "out" / "fid_fashion_cnn.json").read_text()) == vars(table)
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["fid_fashion_cnn.json", "fid_fashion_cnn.md"]
    with pytest.raises(ValueError, match="two sources are called 'a'"):
        main([str(folders[0]), str(folders[0]), "--reals", str(reals)])


def test_folders_are_read_as_they_are_written(tmp_path: Path):
    images = noise(3, 0)
    assert torch.equal(read_folder(write(tmp_path / "rgb", images)), images)
    grey = tmp_path / "grey"
    grey.mkdir()
    Image.fromarray(images[0, 0].numpy()).save(grey / "0.png")
    assert torch.equal(read_folder(grey)[0], images[0, :1].expand(3, -1, -1))


def test_unfit_folders_are_refused(tmp_path: Path):
    with pytest.raises(FileNotFoundError, match="found no PNG files"):
        read_folder(tmp_path)
    folder = write(tmp_path / "mixed", noise(2, 0))
    Image.new("RGB", (9, 8)).save(folder / "2.png")
    with pytest.raises(ValueError, match=r"2\.png has \(8, 9\) pixels, 00000\.png \(8, 8\)"):
        read_folder(folder)
    Image.new("RGBA", (8, 8)).save(folder / "2.png")
    with pytest.raises(ValueError, match="found mode RGBA"):
        read_folder(folder)
    (folder / "2.png").write_bytes((folder / "00000.png").read_bytes()[:60])
    with pytest.raises(ValueError, match="not readable as an image"):
        read_folder(folder)

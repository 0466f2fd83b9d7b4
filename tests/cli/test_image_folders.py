"""`evaluate.py fid`, `codecs` and `sheets`: folders of images as people have them."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import evaluate
from datamodules.images.problems import DISTANCES, GMDataError
from lightning_modules.cli.image_folders import ImageFolder
from lightning_modules.generators.bundled.load import load_bundled
from lightning_modules.generators.image_writing import synthesize_block
from lightning_modules.metrics.fid_table import FLOOR


def noise(n: int, seed: int, side: int = 32) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (n, side, side, 3), dtype=np.uint8)


def write(folder: Path, images: np.ndarray) -> Path:
    folder.mkdir()
    for i, image in enumerate(images):
        Image.fromarray(image).save(folder / f"{i:05d}.png")
    return folder


def test_distances_of_folders_as_a_table_and_in_files(tmp_path, capsys):
    folders = [write(tmp_path / name, noise(70, seed)) for seed, name in enumerate(("a", "b"))]
    reals = write(tmp_path / "held-out", noise(140, 7))
    out = tmp_path / "out"
    table = evaluate.main(["fid", *map(str, folders), "--reals", str(reals), "--out", str(out)])
    assert list(table.distances) == ["a", "b", FLOOR]
    told = capsys.readouterr()
    assert told.out == table.to_markdown()
    assert told.err == ""  # 70 images, 64 features
    assert (out / "fid_fashion_cnn.md").read_text() == table.to_markdown()
    assert json.loads((out / "fid_fashion_cnn.json").read_text()) == vars(table)
    assert sorted(path.name for path in out.iterdir()) == ["fid_fashion_cnn.json", "fid_fashion_cnn.md"]
    with pytest.raises(ValueError, match="two sources are called 'a'"):
        evaluate.main(["fid", str(folders[0]), str(folders[0]), "--reals", str(reals)])


def test_no_file_of_a_folder_is_passed_over_in_silence(tmp_path, capsys):
    """Suffixes in capitals, other formats, sub-folders, links: all count, and what is no image is named."""
    images = noise(12, 0)
    source = write(tmp_path / "a", images[:6])
    (source / "00000.png").rename(source / "00000.PNG")
    Image.fromarray(images[6]).save(source / "6.bmp")
    Image.fromarray(images[7]).save(source / "7", format="PNG")
    write(source / "deeper", images[8:10])
    write(tmp_path / "disk2", images[10:])
    (source / "linked").symlink_to(tmp_path / "disk2")
    (source / "notes.txt").write_text("x")
    (source / os.fsdecode(b"caf\xe9.txt")).write_text("x")
    reals = write(tmp_path / "reals", noise(24, 1))
    table = evaluate.main(["fid", str(source), "--reals", str(reals), "--out", str(tmp_path / "out")])
    assert table.n == 12
    told = capsys.readouterr().err
    assert f"note: {source}: found 12 images, left 2 out (2 no image: " in told
    assert "warning: fid_fashion_cnn: 12 images of each source for 64 dimensions" in told
    listed = (tmp_path / "out" / "left_out.jsonl").read_text().splitlines()
    assert [json.loads(row)["file"] for row in listed] == [rf"{source}/caf\xe9.txt", f"{source}/notes.txt"]


def test_folders_are_read_as_they_are_written(tmp_path):
    images = noise(3, 0, 8)
    read = ImageFolder(write(tmp_path / "rgb", images), None, DISTANCES).tensor()
    assert np.array_equal(read.permute(0, 2, 3, 1).numpy(), images)


def test_unfit_folders_are_refused_before_any_feature(tmp_path):
    reals = write(tmp_path / "reals", noise(4, 1, 8))
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "notes.txt").write_text("x")
    with pytest.raises(FileNotFoundError, match=r"empty: found no images \(left out: 1 no image: .*notes\.txt\)"):
        evaluate.main(["fid", str(tmp_path / "empty"), "--reals", str(reals)])
    with pytest.raises(FileNotFoundError, match="nowhere: found no folder"):
        evaluate.main(["fid", str(tmp_path / "nowhere"), "--reals", str(reals)])
    folder = write(tmp_path / "mixed", noise(2, 0, 8))
    Image.new("RGB", (9, 8)).save(folder / "2.png")
    Image.new("RGBA", (8, 8)).save(folder / "3.png")
    (folder / "4.png").write_bytes(b"x")
    with pytest.raises(GMDataError) as caught:
        evaluate.main(["fid", str(folder), "--reals", str(reals)])
    for words in ("9x8 (width x height): 1 image", "3.png: transparent", "4.png: cannot", "no distance was computed"):
        assert words in str(caught.value)
    (folder / "3.png").unlink()
    (folder / "4.png").unlink()
    table = evaluate.main(
        ["fid", str(folder), "--reals", str(reals), "--n", "2", "--center_crop", "8", "--resize", "32"]
    )
    assert table.n == 2


def test_codecs_reads_a_folder_of_any_sizes(tmp_path, capsys):
    folder = write(tmp_path / "photos", noise(2, 0, 45))
    Image.fromarray(noise(1, 3, 50)[0]).save(folder / "x.JPG")
    evaluate.main(["codecs", "--images", str(folder), "--size", "40"])
    assert f"n = 3 images of 40 px ({folder})" in capsys.readouterr().out
    with pytest.raises(FileNotFoundError, match="found no folder"):
        evaluate.main(["codecs", "--images", str(tmp_path / "nowhere")])
    with pytest.raises(ValueError, match="found --size 1000"):
        evaluate.main(["codecs", "--size", "1000"])


def test_sheets_shows_bundled_sources_and_folders(tmp_path, capsys):
    real = noise(1, 0)
    folder = write(tmp_path / "real-noise", real)
    evaluate.main(["sheets", str(tmp_path), "vae-beta-vae", str(folder), "--images", "2", "--seed", "3"])
    with Image.open(tmp_path / "samples_real-noise.png") as image:
        np.testing.assert_array_equal(np.asarray(image)[2:34, 2:34], real[0])
    second = synthesize_block(load_bundled("vae-beta-vae"), 3, 0)[1].permute(1, 2, 0).numpy()
    with Image.open(tmp_path / "samples_vae-beta-vae.png") as image:
        np.testing.assert_array_equal(np.asarray(image)[2:34, 36:68], second)
    assert capsys.readouterr().out.splitlines()[-1] == str(tmp_path / "samples_real-noise.png")
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match="empty: found no images"):
        evaluate.main(["sheets", str(tmp_path), str(tmp_path / "empty")])

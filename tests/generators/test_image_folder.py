"""A folder of images says what made them, goes on with the same, and takes nothing else."""

from __future__ import annotations

import json

import pytest
import torch

from lightning_modules.generators import image_writing as sampling
from lightning_modules.generators.image_folder import RECORD_NAME, describe_generation, write_image_folder
from lightning_modules.generators.image_writing import image_path, write_png
from lightning_modules.generators.stylegan2 import StyleGAN2Generator

N = 9


def make(seed=0, **changes):
    torch.manual_seed(seed)
    arguments = {"image_size": 128, "z_dim": 8, "w_dim": 8, "mapping_layers": 2, "channels": [8, 8, 8, 8, 4, 4]}
    return StyleGAN2Generator(**arguments | changes).freeze()


@pytest.fixture
def generator():
    return make()


def contents(folder):
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def test_the_bytes_are_the_same_on_one_and_two_processes(generator, tmp_path):
    for processes in (1, 2):
        write_image_folder(generator, tmp_path / str(processes), N, 3, processes, progress=False)
    one = contents(tmp_path / "1")
    assert sorted(one) == [*(image_path(tmp_path, i).name for i in range(N)), RECORD_NAME]
    assert contents(tmp_path / "2") == one
    assert len({one[name] for name in one if name != RECORD_NAME}) == N


def test_an_interrupted_run_goes_on_and_a_longer_one_adds(generator, tmp_path, monkeypatch):
    write_image_folder(generator, tmp_path / "whole", N, 0, progress=False)
    written = []

    def failing(pixels, path):
        if len(written) == 3:
            raise KeyboardInterrupt
        write_png(pixels, path)
        written.append(path)

    folder = tmp_path / "interrupted"
    with monkeypatch.context() as patch:
        patch.setattr(sampling, "write_png", failing)
        with pytest.raises(KeyboardInterrupt):
            write_image_folder(generator, folder, 5, 0, progress=False)
    kept = {path: path.stat().st_mtime_ns for path in written}
    write_image_folder(generator, folder, 5, 0, progress=False)
    write_image_folder(generator, folder, N, 0, progress=False)
    assert contents(folder) == contents(tmp_path / "whole")
    assert {path: path.stat().st_mtime_ns for path in written} == kept


def test_the_record_says_what_decides_the_bytes(generator, tmp_path):
    write_image_folder(generator.configure(truncation=0.7), tmp_path, 1, 5, progress=False)
    record = json.loads((tmp_path / RECORD_NAME).read_text())
    assert record == describe_generation(generator, 1, 5)
    assert (record["images"], record["seed"], record["block"]) == (1, 5, 8)
    assert record["settings"]["truncation"] == 0.7
    assert len(record["weights"]) == 64


@pytest.mark.parametrize(
    ("other", "seed", "message"),
    [
        (lambda: make(), 1, "seed 0, expected 1"),
        (lambda: make(seed=1), 0, "weights '[0-9a-f]{64}', expected '[0-9a-f]{64}'"),
        (lambda: make().configure(truncation=0.5), 0, r"truncation 1\.0, expected 0\.5"),
        (lambda: make().configure(noise="none"), 0, r"noise 'fixed\(0\)', expected 'none'"),
        (lambda: make(clamp=1.0), 0, "architecture '[0-9a-f]{64}', expected"),
    ],
)
def test_other_images_are_not_mixed_in(other, seed, message, generator, tmp_path):
    write_image_folder(generator, tmp_path, 2, 0, progress=False)
    before = contents(tmp_path)
    with pytest.raises(ValueError, match=rf"found images made otherwise: {message}.*; choose another --out"):
        write_image_folder(other(), tmp_path, 2, seed, progress=False)
    assert contents(tmp_path) == before


def test_fewer_images_than_there_are_is_said(generator, tmp_path):
    write_image_folder(generator, tmp_path, 3, 0, progress=False)
    with pytest.raises(ValueError, match="found a folder of 3 images, asked for 2 of the same"):
        write_image_folder(generator, tmp_path, 2, 0, progress=False)


def test_folders_of_others_are_left_alone(generator, tmp_path):
    (tmp_path / "holiday.jpg").write_bytes(b"x")
    with pytest.raises(ValueError, match=r"found files but no generation\.json"):
        write_image_folder(generator, tmp_path, 1, 0, progress=False)
    with pytest.raises(ValueError, match="found the file"):
        write_image_folder(generator, tmp_path / "holiday.jpg", 1, 0, progress=False)
    (tmp_path / RECORD_NAME).write_text("{")
    with pytest.raises(ValueError, match="unreadable"):
        write_image_folder(generator, tmp_path, 1, 0, progress=False)
    assert sorted(contents(tmp_path)) == [RECORD_NAME, "holiday.jpg"]


def test_nothing_is_made_where_nothing_can_be_made(generator, tmp_path):
    for n, processes in ((0, 1), (1, 0)):
        with pytest.raises(ValueError, match="at least 1"):
            write_image_folder(generator, tmp_path / "a", n, 0, processes)
    with pytest.raises(ValueError, match="draws new noise for each image"):
        write_image_folder(generator.configure(noise="random"), tmp_path / "a", 1, 0)
    assert not (tmp_path / "a").exists()

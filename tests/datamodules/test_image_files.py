"""Loose files for predict."""

from __future__ import annotations

import json
import os
from types import SimpleNamespace

import pytest
import torch
from gm_folders import pixels, write_source
from PIL import Image

from datamodules.image_files import ImageFilesDataModule, find_image_files
from datamodules.images.image_search import search_images
from datamodules.images.problems import GMDataError, Kind


@pytest.fixture
def folder(tmp_path):
    write_source(tmp_path, "gan-a", 5)
    write_source(tmp_path, "gan-a/deeper", 3, suffix="webp", key="deep", lossless=True)
    (tmp_path / "gan-a" / "notes.txt").write_text("x")
    (tmp_path / "gan-a" / ".hidden.png").write_text("x")
    return tmp_path


def batches(datamodule):
    datamodule.setup()
    return list(datamodule.predict_dataloader())


def test_a_folder_with_its_subfolders(folder):
    (batch,) = batches(ImageFilesDataModule(images=str(folder)))
    assert sorted(batch) == ["block", "content_id", "image", "index", "part", "path"]
    assert batch["index"].tolist() == list(range(8))
    assert batch["path"] == sorted(batch["path"])
    assert batch["image"].dtype == torch.float32
    position = batch["path"].index(str(folder / "gan-a" / "00002.png"))
    expected = torch.from_numpy(pixels("gan-a", 2)).permute(2, 0, 1) / 255
    assert torch.equal(batch["image"][position], expected)
    deep = batch["path"].index(str(folder / "gan-a" / "deeper" / "00001.webp"))
    assert torch.equal(batch["image"][deep], torch.from_numpy(pixels("deep", 1)).permute(2, 0, 1) / 255)


def test_a_file_and_globs(folder):
    assert search_images(str(folder / "gan-a" / "00001.png")).files == [folder / "gan-a" / "00001.png"]
    found = search_images(str(folder / "gan-a" / "0000[13].png")).files
    assert find_image_files(str(folder / "gan-a" / "0000[13].png")) == found
    assert [file.name for file in found] == ["00001.png", "00003.png"]
    assert len(search_images(str(folder / "**" / "*.webp")).files) == 3


@pytest.mark.parametrize(
    ("images", "words"),
    [
        ("nowhere", "found nothing at .*nowhere, expected an image file, a folder"),
        ("gan-a/*.gif", "expected an image file"),
        ("empty", "found a folder without images at .*empty, expected a folder with images"),
    ],
)
def test_nothing_there(folder, images, words):
    (folder / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match=words):
        ImageFilesDataModule(images=str(folder / images)).prepare_data()


def test_all_unreadable_files_in_one_error(folder):
    (folder / "gan-a" / "bad1.png").write_text("no image")
    file = folder / "gan-a" / "00000.png"
    file.write_bytes(file.read_bytes()[:-40])
    with pytest.raises(GMDataError) as caught:
        ImageFilesDataModule(images=str(folder)).setup()
    assert f"{folder / 'gan-a' / 'bad1.png'}: 8 bytes" in str(caught.value)
    assert f"{file}: " in str(caught.value)
    assert "2 problems, nothing was predicted; `--skip_unreadable true` goes on" in str(caught.value)


def test_files_that_cannot_be_used_are_skipped_by_name_where_that_is_asked_for(folder, capsys):
    (folder / "gan-a" / "bad1.png").write_text("no image")
    write_source(folder, "gan-a", 1, size=(20, 24), start=3)
    Image.new("RGBA", (16, 16)).save(folder / "gan-a" / "blank.png")
    datamodule = ImageFilesDataModule(images=str(folder), image_size=16, skip_unreadable=True)
    (batch,) = batches(datamodule)
    assert batch["index"].tolist() == [0, 1, 2, 4, 7, 8, 9]
    assert [(item["index"], item["path"].rpartition("/")[2]) for item in datamodule.skipped] == [
        (3, "00003.png"),
        (5, "bad1.png"),
        (6, "blank.png"),
    ]
    reasons = [item["reason"] for item in datamodule.skipped]
    assert reasons[0] == f"{Kind.WRONG_SIZE.title}: 24x20 (width x height), expected 16x16"
    assert reasons[1] == f"{Kind.UNREADABLE.title}: 8 bytes, cannot identify image format"
    assert reasons[2] == f"{Kind.TRANSPARENT.title}: transparent, 100.00% of its pixels"
    told = capsys.readouterr().err
    assert "skipped 3 that cannot be used, each with a row: " in told
    assert f"found 10 images, left 2 out (1 hidden: {folder}/gan-a/.hidden.png; 1 no image" in told
    only_bad = ImageFilesDataModule(images=str(folder / "gan-a" / "bad1.png"), skip_unreadable=True)
    with pytest.raises(GMDataError, match=r"1 problem, nothing was predicted, as no file can be used\."):
        only_bad.prepare_data()


def test_what_is_left_out_is_listed(folder, tmp_path, capsys):
    listed = tmp_path / "new" / "left_out.jsonl"
    ImageFilesDataModule(images=str(folder), left_out_file=str(listed)).prepare_data()
    assert f"all are listed in {listed}" in capsys.readouterr().err
    assert sorted(json.loads(line)["reason"] for line in listed.read_text().splitlines()) == ["hidden", "no image"]


def test_files_unlike_those_of_the_training_are_noted(folder, capsys):
    trained = {"format": {"PNG": 100}, "mode": {"RGB": 100}, "size": {"16x16": 90, "17x16": 10}}
    ImageFilesDataModule(images=str(folder / "gan-a" / "*.png"), trained_on=trained).prepare_data()
    assert capsys.readouterr().err == ""
    Image.fromarray(pixels("x", 1, (32, 32))).convert("L").save(folder / "gan-a" / "grey.png")
    ImageFilesDataModule(images=str(folder), trained_on=trained, resize=16).prepare_data()
    told = capsys.readouterr().err
    assert "3 of 9 files have a format that no training file had: WEBP lossless (3), trained on PNG (100)" in told
    assert "1 of 9 files have a mode that no training file had: L (1), trained on RGB (100)" in told
    assert "size that no training file had: 32x32 (1), trained on 16x16 (90), 17x16 (10)" in told
    any_size = {**trained, "size": {"16x16": 90, "other": 10}}
    ImageFilesDataModule(images=str(folder), trained_on=any_size, resize=16).prepare_data()
    assert "size that no" not in capsys.readouterr().err
    ImageFilesDataModule(images=str(folder), trained_on={}, resize=16).prepare_data()  # an older checkpoint
    assert "no training file" not in capsys.readouterr().err


def test_names_that_are_no_utf8(folder):
    odd = folder / "gan-a" / os.fsdecode(b"caf\xe9.png")
    (folder / "gan-a" / "00000.png").rename(odd)
    for images in (folder, odd, folder / "gan-a" / os.fsdecode(b"caf\xe9.p*")):
        (batch,) = batches(ImageFilesDataModule(images=str(images)))
        assert rf"{folder}/gan-a/caf\xe9.png" in batch["path"]
    odd.write_text("x")
    with pytest.raises(GMDataError, match=r"caf\\xe9\.png: 1 byte"):
        ImageFilesDataModule(images=str(odd)).prepare_data()


def test_wrong_size_names_file_found_and_expected(folder):
    write_source(folder, "gan-a", 1, size=(20, 24), start=70)
    with pytest.raises(GMDataError) as caught:
        ImageFilesDataModule(images=str(folder), image_size=16).prepare_data()
    message = str(caught.value)
    assert f"{folder / 'gan-a' / '00070.png'}: 24x20 (width x height), expected 16x16" in message
    assert "1 problem," in message
    ImageFilesDataModule(images=str(folder), image_size=[12, 12], center_crop=12).prepare_data()
    with pytest.raises(GMDataError, match="images of different sizes"):
        ImageFilesDataModule(images=str(folder)).prepare_data()


def test_the_pixel_path_of_training_is_taken(folder):
    plain, encoded = (
        batches(ImageFilesDataModule(images=str(folder), reencode=reencode, resize=8))[0]
        for reencode in ("none", "jpeg_95")
    )
    assert plain["image"].shape == (8, 3, 8, 8)
    assert not torch.equal(plain["image"], encoded["image"])
    assert not set(plain["content_id"].tolist()) & set(encoded["content_id"].tolist())


def test_each_file_once_over_the_processes(folder):
    seen = []
    for rank in range(3):
        datamodule = ImageFilesDataModule(images=str(folder), block_size=2)
        datamodule.trainer = SimpleNamespace(global_rank=rank, world_size=3)
        seen += [index for batch in batches(datamodule) for index in batch["index"].tolist()]
    assert sorted(seen) == list(range(8))


def test_arguments_that_cannot_be():
    with pytest.raises(ValueError, match="image_size is"):
        ImageFilesDataModule(images="x", image_size=[1, 2, 3])
    with pytest.raises(RuntimeError, match="call setup"):
        ImageFilesDataModule(images="x").predict_dataloader()

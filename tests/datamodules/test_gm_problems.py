"""Each bad input, and what its message says."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from gm_folders import pixels, write_gm, write_source
from PIL import Image

from datamodules.gm import GMDataModule
from datamodules.gm_index.manifest import Plan
from datamodules.images.problems import GM_DATA, GMDataError, Kind, Problems


def message_of(**arguments) -> str:
    """The error of prepare_data, which must leave no plan."""
    datamodule = GMDataModule(**arguments)
    with pytest.raises(GMDataError) as caught:
        datamodule.prepare_data()
    assert not datamodule.settings.plan_file.exists()
    return str(caught.value)


def assert_block(message: str, kind: Kind, *found: str) -> None:
    """The message has the kind with its advice, and each offender as its own entry."""
    assert kind.title in message
    assert f"expected: {GM_DATA.spell(kind.expected)}" in message
    assert f"what to do: {GM_DATA.spell(kind.fix)}" in message
    entries = [line.strip() for line in message.splitlines()]
    for offender in found:
        assert any(line.startswith("- ") and offender in line for line in entries), f"{offender!r} not in\n{message}"


def test_a_sound_set_has_no_problem(tmp_path):
    datamodule = GMDataModule(root=str(write_gm(tmp_path)))
    datamodule.prepare_data()
    assert datamodule.settings.plan_file.exists()


def test_missing_root(tmp_path):
    message = message_of(root=str(tmp_path / "nowhere"))
    assert_block(message, Kind.MISSING_ROOT, f"{tmp_path / 'nowhere'} is not there")
    assert not (tmp_path / "nowhere").exists()


def test_root_is_a_file(tmp_path):
    (tmp_path / "set").write_text("x")
    assert_block(message_of(root=str(tmp_path / "set")), Kind.MISSING_ROOT, "is a file")


def test_empty_root(tmp_path):
    assert_block(message_of(root=str(tmp_path)), Kind.EMPTY_ROOT, str(tmp_path))


def test_empty_source_folder(tmp_path):
    write_gm(tmp_path)
    (tmp_path / "flow-empty").mkdir()
    assert_block(message_of(root=str(tmp_path)), Kind.EMPTY_SOURCE, "flow-empty/")


def test_folder_name_of_unknown_form(tmp_path):
    write_gm(tmp_path)
    write_source(tmp_path, "dcgan", 3)
    write_source(tmp_path, "gan dcgan-2", 3)
    assert_block(message_of(root=str(tmp_path)), Kind.FOLDER_NAME, "dcgan/", "gan dcgan-2/")


def test_hidden_folders_and_notes_are_left_alone(tmp_path):
    write_gm(tmp_path)
    (tmp_path / "_old").mkdir()
    (tmp_path / ".git").mkdir()
    (tmp_path / "gan-a" / "manifest.json").write_text("{}")
    (tmp_path / "gan-a" / ".DS_Store").write_text("x")
    datamodule = GMDataModule(root=str(tmp_path))
    with pytest.warns(UserWarning, match=r"found 80 images, left 2 out \(1 hidden: .*DS_Store; 1 no image: .*manifest"):
        datamodule.setup()
    assert datamodule.sources == ["gan-a", "real-x", "vae-b"]
    listed = datamodule.settings.left_out_file.read_text()
    assert f'{{"file": "{tmp_path}/gan-a/manifest.json", "reason": "no image", "as": null}}' in listed
    assert "left 2 out" in datamodule.describe()["notes"]


def test_files_whose_names_begin_with_an_underscore_are_read(tmp_path):
    write_gm(tmp_path)
    for number in range(30):
        (tmp_path / "real-x" / f"{number:05d}.png").rename(tmp_path / "real-x" / f"_DSC{number:04d}.PNG")
    datamodule = GMDataModule(root=str(tmp_path), format_audit="off")
    datamodule.setup()
    assert datamodule.plan.rows["source"].value_counts()["real-x"] == 40
    assert datamodule.plan.notes == []


def test_linked_folders_are_read_and_pictures_reached_twice_count_once(tmp_path):
    write_gm(tmp_path / "gm")
    (tmp_path / "gm" / "real-x").rename(tmp_path / "disk2")
    (tmp_path / "gm" / "real-x").mkdir()
    (tmp_path / "gm" / "real-x" / "part").symlink_to(tmp_path / "disk2")
    (tmp_path / "gm" / "real-x" / "part_again").symlink_to(tmp_path / "disk2")
    (tmp_path / "gm" / "vae-b" / "up").symlink_to(tmp_path / "gm")
    datamodule = GMDataModule(root=str(tmp_path / "gm"))
    datamodule.setup()
    assert datamodule.plan.rows["source"].value_counts().to_dict() == {"real-x": 40, "gan-a": 20, "vae-b": 20}
    (note,) = datamodule.plan.notes
    assert "1 searched already" in note
    assert "1 links to a folder above: " in note
    assert datamodule.images("train")[0]["image"].shape == (3, 16, 16)


def test_names_that_are_no_utf8_go_all_the_way(tmp_path):
    root = tmp_path / os.fsdecode(b"r\xe9els")
    write_gm(root)
    for source in ("gan-a", "real-x"):
        for number in range(20):
            (root / source / f"{number:05d}.png").rename(root / source / os.fsdecode(b"caf\xe9%d.png" % number))
    for cache_dir in (None, str(tmp_path / "cache")):
        datamodule = GMDataModule(root=str(root), split_file=str(tmp_path / "split.json"), cache_dir=cache_dir)
        datamodule.setup()
    again = Plan.read(datamodule.settings)
    assert r"gan-a/caf\xe97.png" in set(again.rows["path"])
    images = datamodule.images("train")
    shown = [images[index]["path"] for index in range(len(images))]
    assert any(path.startswith(str(tmp_path) + r"/r\xe9els/gan-a/caf\xe9") for path in shown)
    "".join(shown).encode()
    (root / "gan-a" / os.fsdecode(b"\xff.png")).write_text("x")
    assert_block(message_of(root=str(root)), Kind.UNREADABLE, r"gan-a/\xff.png: 1 byte, cannot identify image format")


def test_training_files_are_described(tmp_path):
    write_gm(tmp_path)
    write_source(tmp_path, "vae-c", 20, suffix="jpg", size=(20, 24))
    datamodule = GMDataModule(root=str(tmp_path), format_audit="off", center_crop=16)
    datamodule.setup()
    counts = datamodule.counts("train")
    lossless = counts["gan-a"] + counts["vae-b"] + counts["real-x"]
    assert datamodule.training_files == {
        "format": {"PNG": lossless, "JPEG": counts["vae-c"]},
        "mode": {"RGB": sum(counts.values())},
        "size": {"16x16": lossless, "24x20": counts["vae-c"]},
    }
    assert Plan.read(datamodule.settings).training_files == datamodule.training_files


def test_one_source_only(tmp_path):
    write_source(tmp_path, "real-x", 20)
    assert_block(message_of(root=str(tmp_path)), Kind.ONE_SOURCE, "1 (real-x)")


def test_no_real_for_the_manifold(tmp_path):
    write_source(tmp_path, "gan-a", 20)
    write_source(tmp_path, "vae-b", 20)
    assert_block(message_of(root=str(tmp_path)), Kind.NO_REAL, "only gan-a, vae-b")


def test_mixed_sizes_name_sizes_sources_and_files(tmp_path):
    write_gm(tmp_path)
    write_source(tmp_path, "gan-a", 2, size=(24, 16), start=100)
    message = message_of(root=str(tmp_path), format_audit="off")
    assert_block(
        message, Kind.MIXED_SIZES, "16x16 (width x height): 80 images", "16x24 (width x height): 2 images (gan-a 2)"
    )
    assert "first: gan-a/00100.png, gan-a/00101.png" in message


def test_mixed_sizes_are_well_with_crop_and_resize(tmp_path):
    write_gm(tmp_path)
    write_source(tmp_path, "gan-a", 2, size=(24, 18), start=100)
    datamodule = GMDataModule(root=str(tmp_path), format_audit="off", center_crop=16, resize=8)
    datamodule.setup()
    assert datamodule.image_size == (8, 8)
    assert datamodule.images("train")[0]["image"].shape == (3, 8, 8)


def test_image_smaller_than_the_crop(tmp_path):
    write_gm(tmp_path)
    write_source(tmp_path, "gan-a", 1, size=(16, 12), start=100)
    message = message_of(root=str(tmp_path), center_crop=16)
    assert_block(message, Kind.CROP_TOO_LARGE, "gan-a/00100.png: 12x16 (width x height), center_crop is 16")


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp"])
def test_truncated_files_of_every_format(tmp_path, suffix):
    write_gm(tmp_path)
    file = write_source(tmp_path, "gan-a", 1, suffix=suffix, start=100)[0]
    whole = file.read_bytes()
    file.write_bytes(whole[: len(whole) * 2 // 3])
    message = message_of(root=str(tmp_path), format_audit="off")
    assert_block(message, Kind.UNREADABLE, f"gan-a/00100.{suffix}: {len(whole) * 2 // 3} bytes")


def test_files_that_are_no_images(tmp_path):
    write_gm(tmp_path)
    (tmp_path / "gan-a" / "text.png").write_text("this is no picture")
    (tmp_path / "gan-a" / "empty.jpg").write_bytes(b"")
    (tmp_path / "gan-a" / "notes.txt").write_text("hello")
    (tmp_path / "stray.png").write_bytes(b"x")
    message = message_of(root=str(tmp_path))
    assert_block(
        message, Kind.UNREADABLE, "gan-a/text.png: 18 bytes, cannot identify image format", "gan-a/empty.jpg: 0 bytes"
    )
    assert_block(message, Kind.LOOSE_IMAGE, "stray.png")


def test_deep_animated_and_foreign_images(tmp_path):
    write_gm(tmp_path)
    Image.fromarray(np.arange(256, dtype=np.uint16).reshape(16, 16) * 256).save(tmp_path / "gan-a" / "deep.png")
    frames = [Image.fromarray(pixels("frame", number)) for number in range(3)]
    frames[0].save(tmp_path / "gan-a" / "moving.webp", save_all=True, append_images=frames[1:])
    Image.fromarray(np.dstack([pixels("frame", 4), np.zeros((16, 16), np.uint8)])).save(tmp_path / "gan-a" / "hole.png")
    message = message_of(root=str(tmp_path), format_audit="off")
    assert_block(message, Kind.UNSUPPORTED, "deep.png: more than 8 bits", "moving.webp: an animation")
    assert_block(message, Kind.TRANSPARENT, "hole.png: transparent, 100.00% of its pixels")


def test_pictures_of_any_format_and_without_suffix_are_read(tmp_path):
    write_gm(tmp_path)
    for number, (name, form) in enumerate({"a.bmp": "BMP", "b.TIF": "TIFF", "c": "PNG", "d.jfif": "JPEG"}.items()):
        Image.fromarray(pixels("more", number)).save(tmp_path / "gan-a" / name, format=form)
    datamodule = GMDataModule(root=str(tmp_path), format_audit="off")
    datamodule.setup()
    assert {"gan-a/a.bmp", "gan-a/b.TIF", "gan-a/c", "gan-a/d.jfif"} <= set(datamodule.plan.rows["path"])


def test_source_with_too_few_images(tmp_path):
    write_gm(tmp_path)
    write_source(tmp_path, "flow-c", 3)
    message = message_of(root=str(tmp_path))
    assert_block(message, Kind.TOO_FEW, "flow-c: 3 images: none left for val; at least")
    needed = int(message.split("; at least ")[1].split()[0])
    write_source(tmp_path, "flow-c", needed - 3, start=3)
    GMDataModule(root=str(tmp_path)).prepare_data()  # the number in the message is enough


def test_reals_that_all_go_to_the_manifold(tmp_path):
    write_gm(tmp_path)
    message = message_of(root=str(tmp_path), manifold_fraction=1.0)
    assert_block(
        message,
        Kind.TOO_FEW,
        "real-x: 40 images, 40 of them for the manifold, 0 to divide: none left for train, val, test",
    )
    message = message_of(root=str(tmp_path), manifold_fraction=0.0)
    assert_block(message, Kind.TOO_FEW, "real-x (40 images): none for the manifold with manifold_fraction 0")


def test_picture_in_two_sources_even_in_another_format(tmp_path):
    write_gm(tmp_path)
    Image.fromarray(pixels("gan-a", 3)).save(tmp_path / "vae-b" / "copy.webp", lossless=True)
    message = message_of(root=str(tmp_path))
    assert_block(message, Kind.DUPLICATE_SOURCES, "gan-a/00003.png, vae-b/copy.webp")
    datamodule = GMDataModule(root=str(tmp_path), duplicates="drop")
    datamodule.setup()
    kept = set(datamodule.plan.rows["path"])
    assert "gan-a/00002.png" in kept
    assert not kept & {"gan-a/00003.png", "vae-b/copy.webp"}
    assert any(note.startswith("gan-a: 1 file left out") for note in datamodule.plan.notes)


@pytest.mark.parametrize("policy", ["error", "drop"])
def test_picture_in_the_manifold_and_in_a_source(tmp_path, policy):
    write_gm(tmp_path)
    write_source(tmp_path, "manifold-x", 10)
    write_source(tmp_path, "manifold-x", 1, start=50, key="real-x")
    write_source(tmp_path, "real-x", 1, start=50)
    message = message_of(root=str(tmp_path), duplicates=policy)
    assert_block(message, Kind.MANIFOLD_OVERLAP, "manifold-x/00050.png, real-x/00050.png")


def test_sources_yaml_that_does_not_fit(tmp_path):
    write_gm(tmp_path)
    (tmp_path / "sources.yaml").write_text("gan-a: {upsampling: nearest}\ngan-z: {loss: hinge}\nvae-b: 3\n")
    assert_block(message_of(root=str(tmp_path)), Kind.SOURCES_YAML, "'gan-z' is described", "'vae-b' is described by 3")
    (tmp_path / "sources.yaml").write_text("sources:\n  gan-a: {loss: hinge}\n  vae-b: {a: 1}\n  gan-a: {loss: wgan}\n")
    assert_block(message_of(root=str(tmp_path)), Kind.SOURCES_YAML, "'gan-a' stands there more than once")
    (tmp_path / "sources.yaml").write_text("!!python/object/apply:os.system ['touch pwned']")
    assert_block(message_of(root=str(tmp_path)), Kind.SOURCES_YAML, "cannot be parsed")
    assert not Path("pwned").exists()


def test_index_file_columns(tmp_path):
    for name, table, words in [
        ("a.csv", {"file": ["x.png"], "source": ["gan-a"]}, "lacks the column path; its columns are: file, source"),
        ("b.parquet", {"x": [1]}, "lacks the column path and source; its columns are: x"),
        ("c.csv", {"path": [], "source": []}, "has no rows"),
    ]:
        frame = pd.DataFrame(table)
        frame.to_csv(tmp_path / name, index=False) if name.endswith("csv") else frame.to_parquet(tmp_path / name)
        assert_block(message_of(index_file=str(tmp_path / name)), Kind.INDEX_FILE, words)


def test_index_file_that_is_no_table(tmp_path):
    (tmp_path / "a.parquet").write_text("no parquet")
    (tmp_path / "a.txt").write_text("path,source\n")
    (tmp_path / "a.csv").write_bytes(b"")
    assert_block(message_of(index_file=str(tmp_path / "a.parquet")), Kind.INDEX_FILE, "a.parquet cannot be read")
    assert_block(message_of(index_file=str(tmp_path / "a.csv")), Kind.INDEX_FILE, "a.csv cannot be read")
    assert_block(message_of(index_file=str(tmp_path / "a.txt")), Kind.INDEX_FILE, "ends with '.txt'")
    assert_block(message_of(index_file=str(tmp_path / "b.csv")), Kind.INDEX_FILE, "b.csv is not there")


def test_index_file_rows_and_paths(tmp_path):
    write_gm(tmp_path)
    rows = [
        ("gan-a/00000.png", "gan-a", "train"),
        ("gan-a/99999.png", "gan-a", "train"),
        ("gan-a/00001.png", "dcgan", "train"),
        ("gan-a/00002.png", "gan-a", "training"),
        ("gan-a/00003.png", "gan-a", "manifold"),
        ("gan-a/00000.png", "vae-b", "test"),
        ("", "gan-a", "train"),
        ("notes.txt", "gan-a", "train"),
    ]
    pd.DataFrame(rows, columns=["path", "source", "split"]).to_csv(tmp_path / "index.csv", index=False)
    message = message_of(index_file=str(tmp_path / "index.csv"))
    assert_block(message, Kind.MISSING_PATH, "row 2: gan-a/99999.png (source gan-a)")
    assert_block(
        message,
        Kind.INDEX_ROW,
        "row 3: source is 'dcgan'",
        "row 4: split is 'training'",
        "row 5: split is 'manifold' for the source gan-a",
        "row 6: gan-a/00000.png is already listed, as gan-a train",
        "row 7: path is empty",
    )
    (tmp_path / "notes.txt").write_text("no picture")
    message = message_of(index_file=str(tmp_path / "index.csv"))
    assert_block(message, Kind.UNREADABLE, "notes.txt: 10 bytes, cannot identify image format")


def index_with_splits(root: Path, splits: dict[str, list[str]]) -> Path:
    rows = [
        (f"{source}/{i:05d}.png", source, split) for source, given in splits.items() for i, split in enumerate(given)
    ]
    pd.DataFrame(rows, columns=["path", "source", "split"]).to_csv(root / "index.csv", index=False)
    return root / "index.csv"


def test_index_file_duplicate_across_splits_and_missing_splits(tmp_path):
    write_gm(tmp_path, count=4, reals=4)
    Image.fromarray(pixels("gan-a", 0)).save(tmp_path / "gan-a" / "00003.png")
    given = {
        "gan-a": ["train", "val", "test", "test"],  # 0 and 3 are one picture
        "vae-b": ["train", "train", "test"],
        "real-x": ["train", "val", "test", "manifold"],
    }
    message = message_of(index_file=str(index_with_splits(tmp_path, given)))
    assert_block(message, Kind.DUPLICATE_SPLITS, "gan-a/00000.png (train), gan-a/00003.png (test)")
    assert_block(message, Kind.TOO_FEW, "vae-b: no image with the split val (found: train 2, test 1)")
    assert message.count("gan-a/00003.png") == 1
    given["real-x"] = ["train", "val", "test", "test"]
    assert_block(
        message_of(index_file=str(index_with_splits(tmp_path, given))),
        Kind.NO_REAL,
        "no image has the split 'manifold'",
    )


def test_everything_comes_in_one_message(tmp_path):
    write_gm(tmp_path)
    write_source(tmp_path, "nofamily", 1)
    write_source(tmp_path, "flow-c", 1)
    write_source(tmp_path, "gan-a", 1, size=(8, 8), start=100)
    (tmp_path / "vae-b" / "broken.png").write_bytes(b"x")
    (tmp_path / "vae-b" / "notes.txt").write_text("x")
    Image.fromarray(pixels("gan-a", 3)).save(tmp_path / "vae-b" / "copy.png")
    message = message_of(root=str(tmp_path))
    kinds = [
        Kind.FOLDER_NAME,
        Kind.UNREADABLE,
        Kind.MIXED_SIZES,
        Kind.DUPLICATE_SOURCES,
        Kind.TOO_FEW,
    ]
    assert [message.index(kind.title) for kind in kinds] == sorted(message.index(kind.title) for kind in kinds)
    assert "6 problems, nothing was trained" in message  # mixed sizes are two lines


def test_long_lists_end_with_a_count():
    problems = Problems("set")
    for number in range(123):
        problems.add(Kind.UNREADABLE, f"file-{number}.png")
    message = problems.message()
    assert "file-19.png" in message
    assert "file-20.png" not in message
    assert "... and 103 more" in message
    assert "123 problems" in message


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({}, "neither root nor index_file"),
        ({"root": "x", "train_fraction": 0.9}, "they sum to 1.2"),
        ({"root": "x", "train_fraction": 1.2, "val_fraction": -0.4}, "at least 0"),
        ({"root": "x", "manifold_fraction": 1.5}, "manifold_fraction is 1.5"),
        ({"root": "x", "images_per_source": 0}, "images_per_source is 0"),
        ({"root": "x", "resize": 0}, "resize is 0"),
        ({"root": "x", "reencode": "gif"}, "reencode is 'gif'"),
        ({"root": "x", "format_audit": "stop"}, "format_audit is 'stop'"),
        ({"root": "x", "duplicates": "keep"}, "duplicates is 'keep'"),
        ({"root": "x", "batch_size": 0}, "batch_size is 0"),
    ],
)
def test_arguments_that_cannot_be(arguments, words):
    with pytest.raises(ValueError, match=words):
        GMDataModule(**arguments)


def test_a_failure_removes_an_earlier_plan(tmp_path):
    write_gm(tmp_path)
    datamodule = GMDataModule(root=str(tmp_path))
    datamodule.prepare_data()
    (tmp_path / "gan-a" / "bad.png").write_bytes(b"x")
    assert_block(message_of(root=str(tmp_path)), Kind.UNREADABLE, "gan-a/bad.png")

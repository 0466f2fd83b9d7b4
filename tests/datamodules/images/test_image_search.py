"""Which files of a folder are images: every one is found or left out with a reason."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from gm_folders import write_source

from datamodules.images.image_search import find_images, left_out_line, search_images, write_left_out


def names(found, folder):
    return [str(file.relative_to(folder)) for file in found.files]


def left(found, folder):
    return {Path(item.path).relative_to(folder).as_posix(): item.reason for item in found.left_out}


@pytest.fixture
def folder(tmp_path):
    write_source(tmp_path, "leak", 3)
    return tmp_path / "leak"


def test_every_file_is_an_image_or_left_out(folder):
    (folder / "notes.txt").write_text("x")
    (folder / ".hidden.png").write_text("x")
    (folder / "photo").write_bytes((folder / "00000.png").read_bytes())
    (folder / "_DSC0001.JPG").write_bytes(b"damaged, but an image by its name")
    (folder / "broken").symlink_to("nowhere")
    (folder / "broken.png").symlink_to("nowhere.png")
    os.mkfifo(folder / "pipe.png")
    found = find_images(folder)
    assert names(found, folder) == ["00000.png", "00001.png", "00002.png", "_DSC0001.JPG", "broken.png", "photo"]
    assert left(found, folder) == {
        "notes.txt": "no image",
        ".hidden.png": "hidden",
        "broken": "broken link",
        "pipe.png": "no regular file",
    }
    assert len(found.files) + len(found.left_out) == len(list(folder.iterdir()))


def test_only_folders_are_set_aside_by_underscore(folder):
    write_source(folder, "_old", 1)
    write_source(folder, ".cache", 1)
    (folder / "00000.png").rename(folder / "_00000.png")
    assert len(find_images(folder).files) == 4
    found = find_images(folder, (".", "_"))
    assert names(found, folder) == ["00001.png", "00002.png", "_00000.png"]
    assert left(found, folder) == {"_old": "set aside by name"}


def test_links_are_followed_and_nothing_counts_twice(folder, tmp_path):
    write_source(tmp_path, "disk2", 4)
    write_source(tmp_path / "disk2", "deeper", 2)
    (folder / "part2").symlink_to(tmp_path / "disk2")
    (folder / "again").symlink_to(tmp_path / "disk2" / "deeper")
    (folder / "a_copy.png").symlink_to(folder / "00001.png")
    (folder / "elsewhere.png").symlink_to(tmp_path / "disk2" / "00001.png")
    found = find_images(folder)
    assert len(found.files) == len({file.resolve() for file in found.files}) == 3 + 4 + 2
    assert left(found, folder)["a_copy.png"] == "found already"
    again = {Path(item.path).name: item for item in found.left_out}
    assert again["a_copy.png"].as_path == str(folder / "00001.png")
    assert sorted(item.reason for item in found.left_out) == ["found already"] * 2 + ["searched already"]


def test_loops_end(folder):
    deep = folder / "a" / "b"
    deep.mkdir(parents=True)
    (deep / "up").symlink_to(folder)
    (deep / "higher").symlink_to(folder.parent)
    (deep / "self").symlink_to(deep)
    (deep / "nothing").symlink_to("nothing")
    found = find_images(folder)
    assert len(found.files) == 3
    assert left(found, folder) == {
        "a/b/up": "links to a folder above",
        "a/b/higher": "links to a folder above",
        "a/b/self": "searched already",
        "a/b/nothing": "broken link",
    }
    linked = folder.parent / "whole"
    linked.symlink_to(folder)
    assert len(find_images(linked).files) == 3


def test_names_that_are_no_utf8(folder):
    (folder / "00000.png").rename(folder / os.fsdecode(b"caf\xe9.png"))
    (folder / os.fsdecode(b"\xff.txt")).write_text("x")
    found = find_images(folder)
    assert len(found.files) == 3
    assert [item.path for item in found.left_out] == [rf"{folder}/\xff.txt"]
    assert search_images(os.fsdecode(os.fsencode(folder) + b"/caf\xe9.png")).files[0].is_file()


def test_brackets_of_what_exists_are_literal(tmp_path):
    odd = tmp_path / "leak [2024]" / "part*"
    write_source(tmp_path / "leak [2024]", "part*", 3)
    write_source(tmp_path / "leak [2024]", "part2", 2)
    write_source(tmp_path, "leak 2", 1)
    (odd / "x[1].png").write_bytes((odd / "00000.png").read_bytes())
    assert len(search_images(str(odd / "*.png")).files) == 4
    assert len(search_images(str(odd / "0000[01].png")).files) == 2
    assert search_images(str(odd / "x[1].png")).files == [odd / "x[1].png"]
    assert len(search_images(str(tmp_path / "leak [2024]" / "part?" / "*.png")).files) == 6
    assert len(search_images(str(tmp_path / "leak [0-9]" / "*")).files) == 1  # nothing is called so: a pattern
    assert len(search_images(str(tmp_path / "leak [2024]" / "**" / "*.png")).files) == 6
    assert len(search_images(str(tmp_path / "leak*")).files) == 7


def test_patterns_without_a_leading_folder(tmp_path, monkeypatch):
    write_source(tmp_path, "a", 2)
    monkeypatch.chdir(tmp_path)
    assert [str(file) for file in search_images("a/*.png").files] == ["a/00000.png", "a/00001.png"]
    assert len(search_images("**/*.png").files) == 2
    assert len(search_images("*").files) == 2


def test_what_a_pattern_matches_beside_images_is_named(folder):
    (folder / "notes.txt").write_text("x")
    found = search_images(str(folder / "*"))
    assert (len(found.files), left(found, folder)) == (3, {"notes.txt": "no image"})
    with pytest.raises(FileNotFoundError, match=r"found 1 matches and no image at .*\(1 no image: .*notes\.txt\)"):
        search_images(str(folder / "*.txt"))


def test_the_line_counts_and_the_file_lists_all(folder, tmp_path):
    for number in range(5):
        (folder / f"{number}.txt").write_text("x")
    (folder / ".x").write_text("x")
    found = find_images(folder)
    line = left_out_line(3, found.left_out, tmp_path / "list.jsonl")
    assert "\n" not in line
    assert line.startswith("found 3 images, left 6 out (1 hidden: ")
    assert f"5 no image: {folder}/0.txt, {folder}/1.txt, {folder}/2.txt and 2 more" in line
    assert line.endswith(f"all are listed in {tmp_path / 'list.jsonl'}")
    write_left_out(tmp_path / "list.jsonl", found.left_out)
    rows = [json.loads(row) for row in (tmp_path / "list.jsonl").read_text().splitlines()]
    assert {Path(row["file"]).name for row in rows} == {".x", *(f"{number}.txt" for number in range(5))}


def test_a_folder_that_cannot_be_opened_is_told(folder, monkeypatch):
    (folder / "closed").mkdir(mode=0)
    scandir = os.scandir

    def refuse(path):  # as for anybody but the superuser
        if str(path).endswith("closed"):
            raise PermissionError(13, "Permission denied", path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    found = find_images(folder)
    assert [(item.path, item.reason) for item in found.unreadable] == [(f"{folder}/closed/", "Permission denied")]
    assert len(found.files) == 3


def test_images_are_not_opened_where_their_names_say_enough(tmp_path, monkeypatch):
    for number in range(500):
        (tmp_path / f"{number}.png").touch()
    find_images(tmp_path)  # Pillow has loaded its formats

    def refuse(*arguments):
        raise AssertionError(f"opened {arguments}")

    monkeypatch.setattr("builtins.open", refuse)
    assert len(find_images(tmp_path).files) == 500

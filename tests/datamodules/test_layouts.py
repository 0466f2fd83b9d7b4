"""`evaluate.py index --layout` and `--csv`: published folder forms and tables of paths as index files."""

from __future__ import annotations

import csv
import shutil
from collections import Counter

import pytest
from gm_folders import write_attribution_bench, write_genimage, write_source

from datamodules import GMDataModule
from lightning_modules.cli.index import index


def rows_of(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_genimage_is_read_by_the_data_module(tmp_path):
    root = write_genimage(tmp_path / "genimage")
    out = index([str(root), "--layout", "genimage"])
    found = Counter((row["source"], row["split"]) for row in rows_of(out))
    for source in ("closed-midjourney", "score-sd1.4", "gan-biggan"):
        assert {split: found[source, split] for split in ("train", "val", "test")} == {"train": 18, "val": 2, "test": 6}
    reals = {split: found["real-imagenet", split] for split in ("train", "val", "test", "manifold")}
    assert reals == {"train": 24, "val": 6, "test": 18, "manifold": 30}
    for row in rows_of(out):
        assert ("/val/" in row["path"]) == (row["split"] == "test")
        assert ("/nature/" in row["path"]) == (row["source"] == "real-imagenet")
    data = GMDataModule(root=str(root), index_file=str(out))
    data.setup()
    assert data.sources == ["closed-midjourney", "gan-biggan", "real-imagenet", "score-sd1.4"]
    assert Counter(data.plan.rows["split"]) == {"train": 78, "val": 12, "test": 36, "manifold": 30}
    again = index([str(root), "--layout", "genimage", "--out", str(tmp_path / "again.csv")])
    assert again.read_bytes() == out.read_bytes()


def test_imageattributionbench_is_read_with_classes_and_prompts(tmp_path):
    root = write_attribution_bench(tmp_path / "bench")
    out = index([str(root), "--layout", "imageattributionbench"])
    rows = {row["path"]: row for row in rows_of(out)}
    assert rows["SD1_5/HumanFace/FFHQ/SD1_5_p1_i0.png"] == {
        "path": "SD1_5/HumanFace/FFHQ/SD1_5_p1_i0.png",
        "source": "score-SD1_5",
        "group": "FFHQ/p1",
        "class": "FFHQ",
        "kind": "HumanFace",
    }
    assert rows["real/COCO/00000.png"]["source"] == "real-imageattributionbench"
    assert rows["real/COCO/00000.png"]["group"] == ""
    assert {row["source"] for row in rows.values()} == {
        *("closed-4o", "closed-mid-6.0", "score-SD1_5", "real-imageattributionbench")
    }
    where = {"column": "class", "values": ["FFHQ"]}
    split = {"train_fraction": 0.5, "val_fraction": 0.25, "test_fraction": 0.25}
    data = GMDataModule(root=str(root), index_file=str(out), train_where=where, **split)
    data.setup()
    used = data.plan.rows
    assert set(used.loc[used["split"] == "train", "semantic"]) == {"FFHQ"}
    assert set(used.loc[used["split"] == "test", "semantic"]) == {"COCO"}
    groups = used[used["group"] != ""].groupby("group")["split"].nunique()
    assert len(groups) > 0
    assert groups.max() == 1


def test_a_generator_without_a_known_family_is_told(tmp_path, capsys):
    root = write_genimage(tmp_path / "genimage")
    (root / "Midjourney").rename(root / "My GAN 2")
    out = index([str(root), "--layout", "genimage"])
    assert "no family is known of other-My_GAN_2" in capsys.readouterr().err
    assert "other-My_GAN_2" in {row["source"] for row in rows_of(out)}


@pytest.mark.parametrize(
    ("spoil", "layout", "message"),
    [
        (lambda root: None, "genimag", "found layout 'genimag'; did you mean genimage"),
        (lambda root: shutil.rmtree(root), "genimage", "is not there"),
        (lambda root: (root / "notes").mkdir(), "genimage", r"notes/ has neither train/ nor val/"),
        (lambda root: (root / "Extra" / "val").mkdir(parents=True), "genimage", r"val/ has neither ai/ nor nature/"),
        (lambda root: (root / "Extra/val/ai").mkdir(parents=True), "genimage", r"Extra/val/ai/ holds no image"),
        (lambda root: write_source(root, "FLUX", 1), "imageattributionbench", r"FLUX/ holds 1 images outside"),
    ],
)
def test_folders_that_do_not_fit(tmp_path, spoil, layout, message):
    root = write_genimage(tmp_path / "genimage", 2, 2)
    spoil(root)
    with pytest.raises(SystemExit, match=message):
        index([str(root), "--layout", layout, "--out", str(tmp_path / "index.csv")])
    assert not (tmp_path / "index.csv").exists()


@pytest.fixture
def pictures(tmp_path):
    root = tmp_path / "pictures"
    for name, count in (("a", 12), ("b", 12), ("r", 24)):
        write_source(root, name, count)
    return root


TABLE = [("a", "gan-a", 12), ("b", "score-b", 12), ("r", "real-x", 24)]


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_a_table_of_paths_becomes_an_index(pictures, tmp_path, delimiter):
    lines = [delimiter.join(("shows", "source", "path", "group"))]
    for folder, source, count in TABLE:
        lines += [
            delimiter.join(("dog" if n % 2 else "cat", source, f" {folder}/{n:05d}.png", f"{folder}{n // 2}"))
            for n in range(count)
        ]
    table = tmp_path / "paths.csv"
    table.write_text("\ufeff" + "\r\n".join(lines) + "\r\n\r\n", encoding="utf-8")
    out = index([str(pictures), "--csv", str(table)])
    assert out == pictures / "index.csv"
    rows = rows_of(out)
    assert list(rows[0]) == ["path", "source", "group", "shows"]
    assert rows[1] == {"path": "a/00001.png", "source": "gan-a", "group": "a0", "shows": "dog"}
    data = GMDataModule(root=str(pictures), index_file=str(out))
    data.setup()
    assert data.sources == ["gan-a", "real-x", "score-b"]


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (
            ["path,sorce", "a/00000.png,gan-a"],
            r"line 1: found no column source among path, sorce; did you mean sorce\?",
        ),
        (["path,source,splits", "a/00000.png,gan-a,train"], r"line 1: found the column splits; did you mean split\?"),
        (["path,source,path", "a/00000.png,gan-a,x"], r"line 1: column 3 is a second path"),
        (["path,source,", "a/00000.png,gan-a,x"], r"line 1: column 3 has no name"),
        (["path,source", "a/00000.png"], r"line 2: found 1 cell, expected 2"),
        (
            ["path,source", "a/00000.png,gan-a", "a/x.png,gan-a"],
            r"line 3, column path: found a/x.png, which is not a fi",
        ),
        (["path,source", "a/00000.png,gan-a", "a/00000.png,gan-a"], r"line 3, column path: .* which line 2 has"),
        (["path,source", '"a/00000.png",stylegan'], r"line 2, column source: found 'stylegan', expected FAMILY-MODEL"),
        (["path,source", '"a/00000\n.png",gan-a'], r"line 3, column path: found a/00000"),
        (["path,source,split", "a/00000.png,gan-a,validation"], r"line 2, column split: .*; did you mean val\?"),
        (["path,source,split", "a/00000.png,gan-a,", "a/00001.png,gan-a,train"], r"line 2, column split: found ''"),
        (["path,source,split", "a/00000.png,gan-a,manifold"], r"column split: found manifold for gan-a; only real"),
        (["path,source"], r"no line follows the header"),
        ([], r"is empty; expected the columns path and source"),
    ],
)
def test_mistakes_are_named_by_line_and_column(pictures, tmp_path, lines, message):
    table = tmp_path / "paths.csv"
    table.write_text("\n".join(lines))
    with pytest.raises(SystemExit, match=message):
        index([str(pictures), "--csv", str(table)])
    assert not (pictures / "index.csv").exists()


def test_all_mistakes_are_told_at_once(pictures, tmp_path):
    table = tmp_path / "paths.csv"
    table.write_text("path,source\n" + "".join(f"a/{n}.png,gan-a\n" for n in range(30)))
    with pytest.raises(SystemExit, match=r"30 problems, no index was written:\n.*line 2,(.|\n)*\.\.\. and 10 more"):
        index([str(pictures), "--csv", str(table)])


def test_table_and_layout_exclude_each_other_and_files_stay(pictures, tmp_path):
    table = pictures / "index.csv"
    table.write_text("path,source\na/00000.png,gan-a\n")
    with pytest.raises(SystemExit, match="found both --layout and --csv"):
        index([str(pictures), "--csv", str(table), "--layout", "genimage"])
    with pytest.raises(SystemExit, match=r"index.csv is already there"):
        index([str(pictures), "--csv", str(table)])
    with pytest.raises(SystemExit, match=r"absent.csv is not there; expected a CSV file"):
        index([str(pictures), "--csv", str(tmp_path / "absent.csv")])

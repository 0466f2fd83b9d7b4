"""`evaluate.py index`: the images of a data set as a file that GMDataModule takes, with the garments that they show."""

from __future__ import annotations

import csv

import pytest
from png_files import save_png

from datamodules import GMDataModule
from datamodules.real import load_real_set
from lightning_modules.cli.index import index
from lightning_modules.metrics.fashion_cnn import GARMENTS

NUMBER = 60


def read(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_the_index_is_the_data_set(gm_root, tmp_path, capsys):
    out = index([str(gm_root), "--out", str(tmp_path / "index.csv")])
    assert capsys.readouterr().out.splitlines()[-1] == str(out)
    rows = read(out)
    listed = sorted(path.relative_to(gm_root).as_posix() for path in gm_root.glob("*-*/*.png"))
    assert [row["path"] for row in rows] == listed
    by_folder, by_index = GMDataModule(root=str(gm_root)), GMDataModule(root=str(gm_root), index_file=str(out))
    for data in (by_folder, by_index):
        data.setup()
    columns = ["path", "source", "split"]
    assert by_folder.plan.rows[columns].equals(by_index.plan.rows[columns])


def test_garments_are_named_as_their_labels_say(tmp_path):
    reals = load_real_set("fashion_sample", split="test")
    names = [GARMENTS[int(label)] for label in reals.labels[:NUMBER]]
    for place in range(NUMBER):
        folder = tmp_path / "gm" / ("real-a" if place % 2 else "real-b")
        folder.mkdir(parents=True, exist_ok=True)
        save_png(folder / f"{place:03d}.png", reals.pictures[place])
    rows = read(index([str(tmp_path / "gm"), "--classify", "fashion"]))
    right = [row["garment"] == names[int(row["path"][-7:-4])] for row in rows]
    assert len(rows) == NUMBER
    assert sum(right) / NUMBER > 0.8
    assert all(0.1 < float(row["garment_probability"]) <= 1 for row in rows)
    assert [word.lower().replace(" ", "-") for word in reals.classes] == list(GARMENTS)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["absent"], "missing folder"),
        (["ROOT", "--classify", "fashoin"], "found classifier 'fashoin'; did you mean fashion"),
        (["ROOT", "--column", "garment"], "--column names the column of --classify"),
        (["ROOT", "--out", "ROOT/gan-grid"], "gan-grid"),
    ],
)
def test_mistakes(gm_root, arguments, message):
    with pytest.raises(SystemExit, match=message):
        index([word.replace("ROOT", str(gm_root)) for word in arguments])


def test_a_file_that_is_there_stays(gm_root, tmp_path):
    out = tmp_path / "index.csv"
    out.write_text("path,source,split\n")
    with pytest.raises(SystemExit, match=r"index.csv is already there; move it away, or name another file with --out"):
        index([str(gm_root), "--out", str(out)])
    assert out.read_text() == "path,source,split\n"


def test_images_of_another_size_are_refused(tmp_path):
    from gm_folders import write_source

    write_source(tmp_path, "gan-a", 2)
    with pytest.raises(SystemExit, match=r"expected \(n, 3, 32, 32\)"):
        index([str(tmp_path), "--classify", "fashion"])

"""Splits: by content, stratified, disjoint, written and reused."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from gm_folders import pixels, write_gm, write_source
from PIL import Image

from datamodules.gm import GMDataModule
from datamodules.gm_index.splits import SplitRule, draw_splits
from datamodules.images.problems import GMDataError, Problems


def split_of(root, **arguments) -> pd.Series:
    datamodule = GMDataModule(root=str(root), **arguments)
    datamodule.setup()
    return datamodule.plan.rows.set_index("path")["split"]


def rows(counts: dict[str, int]) -> pd.DataFrame:
    table = [(source, f"{source}-{number:032x}") for source, count in counts.items() for number in range(count)]
    frame = pd.DataFrame(table, columns=["source", "content"])
    return frame.assign(role=np.where(frame["source"].str.startswith("manifold-"), "manifold", "source"))


def drawn(counts: dict[str, int], **rule) -> dict[str, dict[str, int]]:
    frame = rows(counts)
    problems = Problems("set")
    split = draw_splits(frame, SplitRule(**rule), problems)
    assert not problems, problems.message()
    table = pd.crosstab(frame["source"], split)
    return {str(source): {str(name): int(n) for name, n in row.items() if n} for source, row in table.iterrows()}


def test_sizes_are_the_fractions_of_each_source():
    assert drawn({"gan-a": 100, "vae-b": 37, "real-x": 200}) == {
        "gan-a": {"train": 70, "val": 10, "test": 20},
        "vae-b": {"train": 26, "val": 4, "test": 7},  # 25.9 -> 26, 29.6 -> 30, 37
        "real-x": {"manifold": 100, "train": 70, "val": 10, "test": 20},
    }


def test_a_manifold_folder_leaves_all_reals_to_be_divided():
    found = drawn({"gan-a": 100, "real-x": 100, "manifold-x": 50}, manifold_size=30)
    assert found["real-x"] == {"train": 70, "val": 10, "test": 20}
    assert found["manifold-x"] == {"manifold": 30, "": 20}


def test_caps():
    found = drawn({"gan-a": 100, "real-x": 300, "real-y": 100}, images_per_source=50, manifold_size=100)
    assert found["gan-a"] == {"train": 35, "val": 5, "test": 10, "": 50}
    assert found["real-x"]["manifold"] + found["real-y"]["manifold"] == 100
    assert found["real-x"]["manifold"] == 75
    assert found["real-y"] == {"manifold": 25, "train": 35, "val": 5, "test": 10, "": 25}


@pytest.mark.parametrize(
    "rule", [{}, {"train": 0.9, "val": 0.05, "test": 0.05}, {"train": 0.0, "val": 0.0, "test": 1.0}]
)
def test_least_is_the_fewest_that_leave_no_split_empty(rule):
    rule = SplitRule(**rule)
    wanted = sum(fraction > 0 for fraction in (rule.train, rule.val, rule.test))
    filled = [sum(size > 0 for size in rule.sizes(count)) for count in range(1, 60)]
    assert rule.least() == 1 + filled.index(wanted)
    assert all(sum(rule.sizes(count)) == count for count in range(200))


def test_a_seed_draws_another_split_of_the_same_sizes():
    frame = rows({"gan-a": 200, "real-x": 200})
    one, again, other = (draw_splits(frame, SplitRule(seed=seed), Problems("set")) for seed in (0, 0, 1))
    assert (one == again).all()
    assert 0.2 < (one != other).mean() < 0.9
    assert sorted(one) == sorted(other)


def test_the_draw_is_uniform_over_the_order_of_files():
    """The training share of the first half of the files is that of a random draw, not of a prefix."""
    frame = rows({"gan-a": 2000, "real-x": 10})
    first = draw_splits(frame, SplitRule(), Problems("set"))[:1000]
    assert abs((first == "train").mean() - 0.7) < 4 * np.sqrt(0.7 * 0.3 / 1000)


def test_changes_elsewhere_do_not_reshuffle(tmp_path):
    root = write_gm(tmp_path)
    before = split_of(root)
    write_source(root, "flow-c", 20)
    write_source(root, "vae-b", 15, start=100)
    after = split_of(root)
    kept = before.index[~before.index.str.startswith("vae-b")]
    assert (after[kept] == before[kept]).all()


def test_names_and_times_of_files_do_not_matter(tmp_path):
    root = write_gm(tmp_path)
    before = split_of(root)
    for number in range(20):  # reversed order of names
        (root / "gan-a" / f"{number:05d}.png").rename(root / "gan-a" / f"z{99 - number}.png")
    after = split_of(root)
    for number in range(20):
        assert after[f"gan-a/z{99 - number}.png"] == before[f"gan-a/{number:05d}.png"]


def test_splits_and_manifold_are_disjoint_by_pixels(tmp_path):
    root = write_gm(tmp_path)
    for number in range(8):  # copies in other formats, which are other bytes but the same pixels
        Image.fromarray(pixels("real-x", number)).save(root / "real-x" / f"copy{number}.webp", lossless=True)
        Image.fromarray(pixels("gan-a", number)).save(root / "gan-a" / f"copy{number}.bmp.png", compress_level=1)
    datamodule = GMDataModule(root=str(root), format_audit="off")
    datamodule.setup()
    seen: dict[bytes, str] = {}
    for split in ("train", "val", "test"):
        images = datamodule.images(split)
        for position in range(len(images)):
            assert seen.setdefault(images[position]["image"].numpy().tobytes(), split) == split
            assert len(seen) == len(set(seen))
    manifold = datamodule.manifold_images()
    for position in range(len(manifold)):
        assert manifold[position]["image"].numpy().tobytes() not in seen
    assert len(seen) + len(manifold) == 80
    assert [note.split(",")[0] for note in datamodule.plan.notes] == [
        "gan-a: 8 files left out",
        "real-x: 8 files left out",
    ]


@pytest.mark.parametrize("suffix", ["json", "parquet"])
def test_split_file_is_written_and_decides(tmp_path, suffix):
    root, file = write_gm(tmp_path / "set"), tmp_path / "splits" / f"split.{suffix}"
    before = split_of(root, split_file=str(file))
    assert file.exists()
    written = file.read_bytes()
    write_source(root, "gan-a", 10, start=100)  # unknown to the file
    datamodule = GMDataModule(root=str(root), split_file=str(file))
    datamodule.setup()
    after = datamodule.plan.rows.set_index("path")["split"]
    pd.testing.assert_series_equal(before, after)
    assert any(f"not in {file}: 10 images" in note for note in datamodule.plan.notes)
    assert file.read_bytes() == written


def test_split_file_is_followed_not_drawn_again(tmp_path):
    root, file = write_gm(tmp_path / "set"), tmp_path / "split.json"
    split_of(root, split_file=str(file))
    content = json.loads(file.read_text())
    assert content["rule"]["seed"] == 0
    assert sorted(content["splits"].values()).count("manifold") == 20
    train = next(key for key, split in content["splits"].items() if split == "train")
    test = next(key for key, split in content["splits"].items() if split == "test")
    content["splits"][train], content["splits"][test] = "test", "train"
    file.write_text(json.dumps(content))
    datamodule = GMDataModule(root=str(root), split_file=str(file))
    datamodule.setup()
    found = datamodule.plan.rows.set_index("content")["split"]
    assert (found[train], found[test]) == ("test", "train")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"seed": 5}, "was written with seed 0, this run has seed 5"),
        ({"train_fraction": 0.6, "val_fraction": 0.2}, "was written with train 0.7, this run has train 0.6"),
        ({"images_per_source": 10}, "was written with images_per_source None, this run has images_per_source 10"),
    ],
)
def test_split_file_of_another_rule(tmp_path, change, words):
    root, file = write_gm(tmp_path / "set"), tmp_path / "split.json"
    split_of(root, split_file=str(file))
    with pytest.raises(GMDataError, match=words):
        split_of(root, split_file=str(file), **change)


@pytest.mark.parametrize("damage", ["text", "list", "unknown", "format", "manifold of a gan", "half"])
def test_split_file_that_is_damaged(tmp_path, damage):
    root, file = write_gm(tmp_path / "set"), tmp_path / "split.json"
    datamodule = GMDataModule(root=str(root), split_file=str(file))
    datamodule.setup()
    content = json.loads(file.read_text())
    match damage:
        case "text" | "half":
            file.write_text("hello" if damage == "text" else file.read_text()[:200])
        case "list":
            file.write_text("[1, 2]")
        case "unknown" | "manifold of a gan":
            gan = datamodule.plan.rows.query("source == 'gan-a'")["content"].iloc[0]
            content["splits"][gan] = "training" if damage == "unknown" else "manifold"
            file.write_text(json.dumps(content))
        case "format":
            file.write_text(json.dumps({**content, "format": 99}))
    with pytest.raises(GMDataError, match="split file that does not fit"):
        split_of(root, split_file=str(file))


def test_split_file_with_images_that_are_gone(tmp_path):
    root, file = write_gm(tmp_path / "set"), tmp_path / "split.json"
    split_of(root, split_file=str(file))
    (root / "gan-a" / "00007.png").unlink()
    with pytest.raises(GMDataError, match="which is not in the data set"):
        split_of(root, split_file=str(file))


@pytest.mark.parametrize("suffix", ["json", "parquet"])
def test_split_file_that_names_a_picture_twice(tmp_path, suffix):
    """As files that were put together by hand do: the last of the two would win, whichever split it names."""
    root, file = write_gm(tmp_path / "set"), tmp_path / f"split.{suffix}"
    datamodule = GMDataModule(root=str(root), split_file=str(file))
    datamodule.setup()
    row = datamodule.plan.rows.query("source == 'gan-a' and split == 'train'").iloc[0]
    if suffix == "json":
        file.write_text(file.read_text().replace('"splits": {', f'"splits": {{"{row["content"]}": "test", '))
    else:
        table = pq.read_table(file)
        pq.write_table(pa.concat_tables([table, table.filter(pc.field("content") == row["content"])]), file)
    with pytest.raises(GMDataError, match=f"{row['content']} stands there 2 times, expected once"):
        split_of(root, split_file=str(file))


def test_split_file_with_a_wrong_suffix(tmp_path):
    with pytest.raises(GMDataError, match=r"split\.txt does not end with \.json or \.parquet"):
        split_of(write_gm(tmp_path / "set"), split_file=str(tmp_path / "split.txt"))


def test_index_file_splits_are_taken_as_given(tmp_path):
    write_gm(tmp_path, count=6, reals=8)
    given = {
        "gan-a": ["train", "train", "val", "test", "test", "test"],
        "vae-b": ["test", "val", "train", "train", "train", "val"],
        "real-x": ["manifold", "manifold", "train", "val", "test", "manifold", "train", "test"],
    }
    table = [
        (f"{source}/{i:05d}.png", source, split) for source, splits in given.items() for i, split in enumerate(splits)
    ]
    frame = pd.DataFrame(table, columns=["path", "source", "split"])
    frame.to_parquet(tmp_path / "index.parquet")
    datamodule = GMDataModule(index_file=str(tmp_path / "index.parquet"))
    datamodule.setup()
    found = datamodule.plan.rows.set_index("path")["split"]
    pd.testing.assert_series_equal(found.sort_index(), frame.set_index("path")["split"].sort_index(), check_dtype=False)
    assert len(datamodule.manifold_images()) == 3


def test_index_file_without_splits_and_with_a_root(tmp_path):
    root = write_gm(tmp_path / "set")
    drawn_by_folder = split_of(root)
    frame = pd.DataFrame({"path": drawn_by_folder.index[::-1]})  # another order
    frame["source"] = frame["path"].str.split("/").str[0]
    frame.assign(extra="x").to_csv(tmp_path / "index.csv", index=False)
    found = split_of(root, index_file=str(tmp_path / "index.csv"))
    pd.testing.assert_series_equal(found.sort_index(), drawn_by_folder.sort_index())

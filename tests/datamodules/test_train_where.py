"""Training on some kind of content alone: splits, what is said, mistakes; design choices beside the data."""

from __future__ import annotations

import pandas as pd
import pytest
import yaml
from gm_folders import write_gm

from datamodules import GMDataModule
from datamodules.gm_index.sources import read_sources_yaml
from datamodules.images.problems import GMDataError, Problems

KINDS = ("bag", "dress", "shirt")


@pytest.fixture(scope="module")
def index(tmp_path_factory):
    root = write_gm(tmp_path_factory.mktemp("gm"), count=60, reals=120)
    paths = sorted(path.relative_to(root).as_posix() for path in root.rglob("*.png"))
    rows = [(path, path.partition("/")[0], KINDS[int(path[-9:-4]) % 3]) for path in paths]
    pd.DataFrame(rows, columns=["path", "source", "garment"]).to_csv(root / "index.csv", index=False)
    return root / "index.csv"


def data_of(index, **settings):
    data = GMDataModule(root=str(index.parent), index_file=str(index), batch_size=8, **settings)
    data.setup()
    return data


def shown(index, data, split):
    """What the images of a split show, from the index file itself."""
    kinds = pd.read_csv(index).set_index("path")["garment"]
    rows = data.plan.rows
    return set(kinds[rows.loc[rows["split"] == split, "path"]])


def paths(data, split):
    return set(data.plan.rows.loc[data.plan.rows["split"] == split, "path"])


def test_training_has_what_is_asked_for_and_the_test_the_others(index):
    whole = data_of(index)
    data = data_of(index, train_where={"column": "garment", "values": ["dress"]})
    for split in ("train", "val", "manifold"):
        assert shown(index, data, split) == {"dress"}
        assert paths(data, split) < paths(whole, split)  # the split itself is that of all images
    assert shown(index, data, "test") == {"bag", "shirt"}
    assert paths(data, "test") < paths(whole, "test")
    every = data_of(index, train_where={"column": "garment", "values": "dress", "test": "all"})
    assert paths(every, "test") == paths(whole, "test")
    assert data.evaluation_settings() != every.evaluation_settings()
    assert any("learns from garment dress alone; left out: train" in note for note in data.plan.notes)


def test_batches_of_the_test_say_what_is_shown(index):
    data = data_of(index, train_where={"column": "garment", "values": ["dress"], "test": "all"})
    kinds = pd.read_csv(index).set_index("path")["garment"]
    batch = next(iter(data.test_dataloader()))
    assert batch["semantic"] == [kinds["/".join(path.rsplit("/", 2)[1:])] for path in batch["path"]]


def test_another_process_reads_the_same_plan(index):
    settings = {"train_where": {"column": "garment", "values": ["dress"]}}
    data = data_of(index, **settings)
    again = type(data.plan).read(data.settings)
    pd.testing.assert_frame_equal(again.rows, data.plan.rows)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"colum": "garment", "values": ["bag"]}, "found key of train_where 'colum'; did you mean column"),
        ({"column": "garment"}, "expected a column of the index file and the values"),
        ({"column": "garment", "values": []}, "expected a column of the index file and the values"),
        ({"column": "garment", "values": ["bag"], "test": "other"}, "did you mean others"),
    ],
)
def test_settings_that_cannot_be(index, given, message):
    with pytest.raises(ValueError, match=message):
        GMDataModule(root=str(index.parent), index_file=str(index), train_where=given)


def test_it_needs_an_index_file(index):
    with pytest.raises(ValueError, match="needs an index_file"):
        GMDataModule(root=str(index.parent), train_where={"column": "garment", "values": ["bag"]})


def test_problems_of_the_index_are_told(index, tmp_path):
    with pytest.raises(GMDataError, match="no image has dres in the column garment; it has bag, dress, shirt"):
        data_of(index, train_where={"column": "garment", "values": ["dres"]})
    with pytest.raises(
        GMDataError, match="lacks the column content of train_where; its columns: path, source, garment"
    ):
        data_of(index, train_where={"column": "content", "values": ["bag"]})
    table = pd.read_csv(index)
    table.loc[table["source"] == "gan-a", "garment"] = "bag"
    table.loc[0, "garment"] = ""
    table.to_csv(tmp_path / "index.csv", index=False)
    data = {"root": str(index.parent), "index_file": str(tmp_path / "index.csv"), "cache_dir": str(tmp_path / "cache")}
    with pytest.raises(GMDataError) as caught:
        GMDataModule(**data, train_where={"column": "garment", "values": ["dress"]}).setup()
    assert "gan-a: train_where leaves none for train, val" in str(caught.value)
    assert "1 image without a value in the column garment" in str(caught.value)


def test_design_choices_of_a_user_join_what_is_known_of_the_sources(tmp_path):
    (tmp_path / "sources.yaml").write_text(yaml.safe_dump({"gan-a": {"family": "gan", "loss": "hinge"}}))
    (tmp_path / "designs.yaml").write_text(yaml.safe_dump({"gan-a": {"loss": "logistic"}, "vae-b": {"skip": "none"}}))
    problems = Problems("here")
    found = read_sources_yaml(tmp_path, {"gan-a", "vae-b"}, problems)
    assert found == {"gan-a": {"family": "gan", "loss": "logistic"}, "vae-b": {"skip": "none"}}
    assert not problems
    read_sources_yaml(tmp_path, {"gan-a"}, problems)
    assert "designs.yaml: 'vae-b' is described" in problems.message()


def test_sources_joined_to_classes(index):
    data = data_of(index)
    before = {split: data.counts(split) for split in ("train", "test")}
    manifold = paths(data, "manifold")
    data.relabel({"gan-a": 0, "real-x": 1}, ["gan", "real"])
    assert data.sources == ["gan", "real"]
    assert data.counts("test") == {"gan": before["test"]["gan-a"], "real": before["test"]["real-x"]}
    assert paths(data, "manifold") == manifold
    labels = data.images("test").labels
    assert [int((labels == place).sum()) for place in (0, 1)] == list(data.counts("test").values())

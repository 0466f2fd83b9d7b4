"""Groups: images of one photograph or prompt stand in one split, and without groups nothing changes."""

from __future__ import annotations

import hashlib
import json
import unicodedata
import warnings

import numpy as np
import pandas as pd
import pytest
from gm_folders import pixels, write_gm, write_source
from PIL import Image
from test_gm_splits import rows

from datamodules.gm import GMDataModule
from datamodules.gm_index.grouped_splits import draw_grouped_splits
from datamodules.gm_index.groups import join_copies
from datamodules.gm_index.manifest import Plan
from datamodules.gm_index.splits import SplitRule, draw_splits
from datamodules.images.problems import GMDataError, Problems

IDS = [f"photo{number}" for number in range(60)]


def prepared(root, **arguments) -> GMDataModule:
    datamodule = GMDataModule(root=str(root), format_audit="off", **arguments)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        datamodule.setup()
    return datamodule


def problem_of(root=None, **arguments) -> str:
    with pytest.raises(GMDataError) as caught:
        prepared(root, **arguments)
    return str(caught.value)


def table(groups: dict[str, list[str]]) -> pd.DataFrame:
    """Rows of sources, each image with the name of its group."""
    frame = rows({source: len(names) for source, names in groups.items()})
    return frame.assign(group=[name for names in groups.values() for name in names])


def drawn(frame: pd.DataFrame, **rule) -> tuple[dict[str, dict[str, int]], list[str]]:
    """Sizes by source, after asserting that no group is in two splits."""
    problems, notes = Problems("set"), []
    split = draw_grouped_splits(frame, SplitRule(**rule), problems, notes)
    assert not problems, problems.message()
    used = frame.assign(split=split)[(split != "") & (frame["group"] != "")]
    assert used.empty or used.groupby("group")["split"].nunique().max() == 1
    counts = pd.crosstab(frame["source"], split)
    sizes = {str(source): {str(name): int(n) for name, n in row.items() if n} for source, row in counts.iterrows()}
    return sizes, notes


# ---- without groups


@pytest.mark.parametrize(
    ("counts", "rule", "digest"),
    [
        ({"gan-a": 100, "vae-b": 37, "real-x": 200}, {}, "43f4172d666c643e"),
        (
            {"gan-a": 100, "real-x": 300, "real-y": 100},
            {"seed": 7, "images_per_source": 50, "manifold_size": 100},
            "32b7500a5adb294d",
        ),
        ({"gan-a": 100, "real-x": 100, "manifold-x": 50}, {"seed": 1, "manifold_size": 30}, "e36feda25efc30cd"),
    ],
)
def test_without_groups_a_split_stays_what_it_was(counts, rule, digest):
    """The digests are those of the splits before there were groups: numbers and split files stay valid."""
    frame = rows(counts)
    split = draw_splits(frame, SplitRule(**rule), Problems("set"))
    found = json.dumps(dict(zip(frame["content"], split, strict=True)))
    assert hashlib.sha256(found.encode()).hexdigest()[:16] == digest
    alone = draw_grouped_splits(frame.assign(group=""), SplitRule(**rule), Problems("set"), [])
    assert (alone == split).all()
    own = draw_grouped_splits(frame.assign(group=frame["content"]), SplitRule(**rule), Problems("set"), [])
    assert (own == split).all()  # groups of one image are none


def test_a_data_set_and_its_split_file_do_not_change(tmp_path):
    root = write_gm(tmp_path / "set")
    before = prepared(root, split_file=str(tmp_path / "split.json"))
    assert sorted(json.loads((tmp_path / "split.json").read_text())["rule"]) == [
        *["images_per_source", "manifold", "manifold_size", "seed", "test", "train", "val"]
    ]
    assert before.describe()["groups"] == "none: images are split one by one"


# ---- the draw


def test_sizes_are_met_where_groups_allow_it():
    sizes, notes = drawn(table({"gan-a": IDS, "vae-b": IDS[:50], "real-x": IDS, "manifold-y": [""] * 20}))
    assert sizes == {
        "gan-a": {"train": 42, "val": 6, "test": 12},
        "vae-b": {"train": 35, "val": 5, "test": 10},
        "real-x": {"train": 42, "val": 6, "test": 12},
        "manifold-y": {"manifold": 20},
    }
    assert notes == []


def test_generated_images_of_the_manifolds_groups_are_left_out():
    sizes, notes = drawn(table({"gan-a": IDS, "real-x": IDS}))
    assert sizes["real-x"] == {"manifold": 30, "train": 21, "val": 3, "test": 6}
    assert sizes["gan-a"] == {"": 30, "train": 21, "val": 3, "test": 6}
    assert "30 images left out, of groups whose reals form the manifold (gan-a 30)" in notes[0]
    folder, notes = drawn(table({"gan-a": IDS, "real-x": IDS, "manifold-y": IDS[:10]}))
    assert folder["gan-a"][""] == folder["real-x"][""] == 10
    assert "gan-a 10, real-x 10" in notes[0]


def test_reals_without_generated_images_go_to_the_manifold_first():
    others = [f"other{number}" for number in range(60)]
    sizes, notes = drawn(table({"gan-a": IDS, "real-x": IDS + others}))
    assert sizes["gan-a"] == {"train": 42, "val": 6, "test": 12}
    assert sizes["real-x"] == {"manifold": 60, "train": 42, "val": 6, "test": 12}
    assert notes == []


def test_large_groups_are_spread_over_the_splits():
    rng = np.random.default_rng(0)
    names = [f"q{number}" for number in rng.integers(0, 60, 500)]
    sizes, _ = drawn(table({"gan-a": names, "vae-b": names[:300], "real-x": IDS, "manifold-y": [""] * 9}))
    for source in ("gan-a", "vae-b"):
        total = sum(sizes[source].values())
        for split, share in (("train", 0.7), ("val", 0.1), ("test", 0.2)):
            assert abs(sizes[source][split] / total - share) < 0.02
    big = [f"g{number // 25}" for number in range(250)]  # ten groups of 25
    sizes, _ = drawn(table({"gan-a": big, "real-x": [""] * 60}))
    assert sizes["gan-a"] == {"train": 175, "val": 25, "test": 50}


def test_images_alone_make_up_for_what_groups_miss():
    frame = table({"gan-a": ["g"] * 30 + [""] * 70, "real-x": [""] * 100})
    sizes, _ = drawn(frame)
    assert sizes["gan-a"] == {"train": 70, "val": 10, "test": 20}


def test_sizes_that_groups_do_not_allow_are_told():
    frame = table({"gan-a": ["g"] * 60 + ["h"] * 20 + ["i"] * 20, "real-x": [""] * 100})
    sizes, notes = drawn(frame)
    assert sizes["gan-a"] == {"train": 60, "val": 20, "test": 20}
    assert notes == ["groups do not allow the sizes asked for: gan-a train 60 for 70, val 20 for 10, test 20 for 20"]


def test_too_few_groups_are_a_problem_with_numbers():
    problems = Problems("set")
    draw_grouped_splits(table({"gan-a": ["g"] * 100, "real-x": [""] * 100}), SplitRule(), problems, [])
    assert "gan-a: 100 images, 100 to divide in 1 group: none left for val, test" in problems.message()
    problems = Problems("set")
    frame = table({"gan-a": IDS, "real-x": [""] * 100, "manifold-x": IDS})
    draw_grouped_splits(frame, SplitRule(), problems, [])
    assert "60 of them left out because their groups have reals in the manifold, 0 to divide" in problems.message()
    problems = Problems("set")
    draw_grouped_splits(table({"gan-a": IDS, "real-x": ["g"] * 60}), SplitRule(manifold=0.1), problems, [])
    assert "real-x (60 images): no group for the manifold with manifold_fraction 0.1" in problems.message()


def test_caps_take_the_same_groups_of_every_source():
    frame = table({"gan-a": IDS, "vae-b": IDS, "real-x": IDS, "manifold-y": [""] * 30})
    sizes, _ = drawn(frame, images_per_source=20, manifold_size=10)
    assert sizes["gan-a"] == sizes["vae-b"] == {"": 40, "train": 14, "val": 2, "test": 4}
    assert sizes["manifold-y"] == {"": 20, "manifold": 10}
    split = draw_grouped_splits(frame, SplitRule(images_per_source=20), Problems("set"), [])
    used = frame[(split != "") & (frame["group"] != "")]
    assert used["group"].nunique() == 20
    threes = [f"t{number // 3}" for number in range(60)]
    sizes, _ = drawn(table({"gan-a": IDS, "real-x": threes}), manifold_size=10)
    assert sizes["real-x"]["manifold"] == 9  # a cap is not exceeded for a group


def test_the_draw_depends_on_seed_content_and_group_alone():
    rng = np.random.default_rng(3)
    frame = table({"gan-a": IDS * 2, "vae-b": [f"photo{n}" for n in rng.integers(0, 99, 80)], "real-x": IDS})
    split = draw_grouped_splits(frame, SplitRule(), Problems("set"), [])
    for seed in range(3):
        other = frame.sample(frac=1, random_state=seed)
        again = draw_grouped_splits(other, SplitRule(), Problems("set"), [])
        assert list(again.index) == list(other.index)
        assert (again.sort_index() == split).all()
    another = draw_grouped_splits(frame, SplitRule(seed=1), Problems("set"), [])
    assert 0.2 < (another != split).mean() < 0.9


# ---- data sets on disk


def write_photos(root, count: int = 30, sources=("gan-a", "vae-b"), name="{number:05d}_{source}.png") -> None:
    """Each source and the reals hold one version of each photograph."""
    for source in (*sources, "real-x"):
        (root / source).mkdir(parents=True)
        for number in range(count):
            picture = pixels("photo", number).astype(int)
            picture[8, 8] = sum(source.encode()) % 256
            file = root / source / name.format(number=number, source=source)
            Image.fromarray(picture.astype(np.uint8)).save(file)


@pytest.mark.parametrize("way", ["stem", "expression", "column"])
def test_no_group_stands_in_two_splits(tmp_path, way):
    name = {"stem": "{number:05d}.png", "expression": "{number:05d}_{source}.png", "column": "{source}{number}.png"}[
        way
    ]
    write_photos(tmp_path, name=name)
    arguments = {"stem": {"groups": "stem"}, "expression": {"groups": r"^(\d+)"}, "column": {}}[way]
    if way == "column":
        files = [(f"{s}/{s}{n}.png", s, f"photo {n}") for s in ("gan-a", "vae-b", "real-x") for n in range(30)]
        pd.DataFrame(files, columns=["path", "source", "group"]).to_csv(tmp_path / "index.csv", index=False)
        arguments = {"index_file": str(tmp_path / "index.csv")}
    datamodule = prepared(tmp_path, manifold_fraction=0.2, **arguments)
    plan = datamodule.plan.rows
    assert plan.groupby("group")["split"].nunique().max() == 1
    assert plan["split"].value_counts().to_dict() == {"train": 51, "test": 15, "val": 6, "manifold": 6}
    where = {"stem": "by stem", "expression": r"by ^(\d+)", "column": "column group of the index file"}[way]
    assert datamodule.describe()["groups"] == (
        f"{where}: 24 groups of several images, 72 images together, at most 3 in one; "
        "6 images alone; none in two splits"
    )
    assert any("12 images left out, of groups whose reals form the manifold" in note for note in datamodule.plan.notes)
    other_process = Plan.read(datamodule.settings)
    assert other_process.groups == datamodule.plan.groups
    assert other_process.rows["group"].tolist() == plan["group"].tolist()


def test_names_in_either_unicode_form_are_one_group(tmp_path):
    write_gm(tmp_path)
    for source, form in (("gan-a", "NFC"), ("vae-b", "NFD")):
        for number in range(20):
            old = tmp_path / source / f"{number:05d}.png"
            old.rename(tmp_path / source / unicodedata.normalize(form, f"caf\u00e9{number}.png"))
    datamodule = prepared(tmp_path, groups="stem")
    assert "20 groups of several images, 40 images together" in datamodule.describe()["groups"]


def test_names_that_an_expression_does_not_fit_are_told(tmp_path):
    write_photos(tmp_path)
    (tmp_path / "gan-a" / "00000_gan-a.png").rename(tmp_path / "gan-a" / "cover.png")
    datamodule = prepared(tmp_path, groups=r"^(\d+)_")
    assert any(
        r"1 image whose names do not fit '^(\\d+)_', each by itself; first: gan-a/cover.png" in note
        for note in datamodule.plan.notes
    )
    assert "groups that cannot be told" in problem_of(tmp_path, groups="^prompt([0-9]+)")


@pytest.mark.parametrize("groups", ["stems", "^[0-9]+", "(a)(b)", "(", "none"])
def test_an_option_that_names_no_group_is_refused_at_once(groups):
    with pytest.raises(ValueError, match=r"groups is .*expected stem") as caught:
        GMDataModule(root="nowhere", groups=groups)
    assert "\n" not in str(caught.value)


def test_a_column_and_an_option_are_one_too_many(tmp_path):
    write_photos(tmp_path)
    files = sorted(path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*.png"))
    frame = pd.DataFrame({"path": files, "source": [file.split("/")[0] for file in files], "group": "g"})
    frame.to_csv(tmp_path / "index.csv", index=False)
    message = problem_of(tmp_path, index_file=str(tmp_path / "index.csv"), groups="stem")
    assert "the index file has a column group, and groups is 'stem'" in message


def test_given_splits_that_divide_a_group_are_refused_by_name(tmp_path):
    write_photos(tmp_path, name="{number:05d}.png")
    file = tmp_path / "split.json"
    prepared(tmp_path, split_file=str(file))  # by image
    message = problem_of(tmp_path, split_file=str(file), groups="stem")
    assert "group in several splits" in message
    first = next(line for line in message.splitlines() if "- group '" in line)
    name = first.split("'")[1]
    assert f"{name}.png (" in first
    assert len({part.split(")")[0] for part in first.split("(")[1:]}) > 1
    plan = prepared(tmp_path, groups="stem", split_file=str(tmp_path / "grouped.json")).plan.rows
    again = prepared(tmp_path, groups="stem", split_file=str(tmp_path / "grouped.json")).plan.rows
    pd.testing.assert_frame_equal(plan, again)
    frame = plan[["path", "source", "split"]].assign(group=plan["group"])
    frame.to_csv(tmp_path / "index.csv", index=False)
    index = {"index_file": str(tmp_path / "index.csv")}
    assert (prepared(tmp_path, **index).plan.rows["split"].to_numpy() == plan["split"].to_numpy()).all()
    place = frame.index[frame["split"] == "test"][0]
    moved = frame.loc[place, "group"]
    frame.loc[place, "split"] = "train"
    frame.to_csv(tmp_path / "index.csv", index=False)
    message = problem_of(tmp_path, **index)
    assert f"group '{moved}': " in message
    assert message.count("- group '") == 1


def test_copies_join_their_groups(tmp_path):
    write_photos(tmp_path, name="{number:05d}.png")
    for number in range(0, 20, 2):  # photograph n again under the name of n + 1: the two groups are one
        Image.open(tmp_path / "gan-a" / f"{number:05d}.png").save(tmp_path / "gan-a" / f"{number + 1:05d}.png")
    datamodule = prepared(tmp_path, groups="stem")
    plan = datamodule.plan.rows.assign(number=lambda frame: frame["path"].str.extract(r"(\d+)\.png", expand=False))
    pairs = plan[plan["number"].astype(int) < 20].assign(pair=lambda frame: frame["number"].astype(int) // 2)
    assert pairs.groupby("pair")["split"].nunique().max() == 1
    assert pairs.groupby("pair")["group"].nunique().max() == 1
    assert any("gan-a: 10 files left out, copies of other files" in note for note in datamodule.plan.notes)


def test_joined_groups_are_one_along_chains():
    frame = pd.DataFrame(
        [("a", "1"), ("b", "1"), ("b", "2"), ("c", "2"), ("d", "3"), ("", "4"), ("e", "4"), ("f", "5"), ("", "6")],
        columns=["group", "final"],
    )
    for order in (slice(None), slice(None, None, -1)):
        joined = join_copies(frame[order]).sort_index()["group"]
        assert joined.tolist() == ["a", "a", "a", "a", "d", "e", "e", "f", ""]


# ---- data that seem to have groups


def seeming(root, **arguments) -> list[str]:
    return [note for note in prepared(root, **arguments).plan.notes if "the images look grouped" in note]


def test_running_numbers_and_unlike_images_are_no_groups(tmp_path):
    assert seeming(write_gm(tmp_path)) == []


def test_images_that_resemble_those_of_their_name_are_told_once(tmp_path):
    write_photos(tmp_path, name="{number:05d}.png")
    (note,) = seeming(tmp_path)
    assert "gan-a and real-x have 30 of 30 file names in common, and images of one name resemble each other" in note
    assert "and so 2 more pairs" in note
    assert "`groups: stem`" in note
    assert seeming(tmp_path, groups="stem") == []


def test_names_that_are_no_running_numbers_are_enough(tmp_path):
    write_gm(tmp_path)
    for source in ("gan-a", "vae-b"):
        for number in range(20):
            (tmp_path / source / f"{number:05d}.png").rename(tmp_path / source / f"{number * 7919 + 13:012d}.png")
    (note,) = seeming(tmp_path)
    assert "gan-a and vae-b have 20 of 20 file names in common ('000000000013', ...)." in note
    for number in range(15):  # fewer than half
        (tmp_path / "gan-a" / f"{number * 7919 + 13:012d}.png").rename(tmp_path / "gan-a" / f"other{number}.png")
    assert seeming(tmp_path) == []


def test_numbers_after_the_name_of_a_class_are_running_numbers(tmp_path):
    for source in ("gan-a", "vae-b", "real-x"):
        write_source(tmp_path, source, 40)
        for number in range(40):
            old = tmp_path / source / f"{number:05d}.png"
            old.rename(tmp_path / source / f"{('cat', 'dog')[number % 2]}_{number // 2:04d}.png")
    assert seeming(tmp_path) == []


# ---- what it is for


def test_a_split_by_image_leaks_and_a_split_by_group_does_not(tmp_path):
    """Forty prompts a source, four seeds each: the nearest training image is another seed of the prompt, if it may be.

    The sources differ in little but which prompts they drew, so an honest accuracy is near chance, 1/3.
    """
    rng = np.random.default_rng(0)
    for source in ("gan-a", "vae-b", "real-x"):
        (tmp_path / source).mkdir()
        for prompt in range(40):
            for seed in range(4):
                noisy = pixels(source, prompt).astype(float) + rng.normal(0, 12, (16, 16, 3))
                file = tmp_path / source / f"{source[:1]}{prompt:03d}_seed{seed}.png"
                Image.fromarray(np.clip(noisy, 0, 255).astype(np.uint8)).save(file)
    write_source(tmp_path, "manifold-y", 10)

    def nearest_neighbour_accuracy(split: str, **arguments) -> float:
        datamodule = prepared(tmp_path, **arguments)
        found = {}
        for name in ("train", split):
            images = datamodule.images(name)
            items = [images[position] for position in range(len(images))]
            found[name] = (
                np.stack([item["image"].numpy().ravel() for item in items]).astype(np.float64),
                np.array([item["label"] for item in items]),
            )
        (x, y), (queries, truth) = found["train"], found[split]
        distance = (queries**2).sum(1)[:, None] - 2 * queries @ x.T + (x**2).sum(1)
        return float((y[distance.argmin(1)] == truth).mean())

    by_image = nearest_neighbour_accuracy("test")
    by_group = nearest_neighbour_accuracy("test", groups=r"^(.*)_seed")
    assert by_image > 0.95
    assert by_group < 0.55
    assert nearest_neighbour_accuracy("val") - by_group > 0.4  # what a validation by image promises too much

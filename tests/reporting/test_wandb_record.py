"""What a run folder sends to Weights & Biases, read back from the offline file by W&B's own reader."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from evaluated_runs import COMMIT, attributor_run, fingerprint_run
from wandb_offline import of_type, offline_run, read_back

from lightning_modules.reporting import wandb_record
from lightning_modules.reporting.run_files import read_metrics
from lightning_modules.reporting.wandb_description import describe, describe_run
from lightning_modules.reporting.wandb_examples import AttackedImage
from lightning_modules.reporting.wandb_record import public_row, send_examples, send_results

SECRET = "01101001" * 4


@pytest.fixture(autouse=True)
def forget_the_environment():
    """The client reads the environment once a process: what it has read here must not count for other tests."""
    import wandb

    yield
    wandb.teardown()


@pytest.fixture(scope="module")
def sent(tmp_path_factory):
    """Two runs, sent; each as its folder, the folder of W&B's files, the summary and the records read back."""
    base = tmp_path_factory.mktemp("sent")
    fingerprint, attributor = fingerprint_run(base / "f"), attributor_run(base / "a")
    rows = [{**json.loads(line), "key": SECRET, "bits": SECRET} for line in (fingerprint / "rows.jsonl").open()]
    (fingerprint / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    checkpoint = base / "last.ckpt"
    checkpoint.write_bytes(b"weights that stay here")
    facts = json.loads((fingerprint / "provenance.json").read_text())
    facts["hashes"]["checkpoint"]["path"] = str(checkpoint)
    (fingerprint / "provenance.json").write_text(json.dumps(facts))
    image = np.full((32, 32, 3), 90, dtype=np.uint8)
    found = {}
    for folder in (fingerprint, attributor):
        with offline_run(folder) as run:
            # the rules of Lightning's logger, which come first
            run.define_metric("trainer/global_step")
            run.define_metric("*", step_metric="trainer/global_step", step_sync=True)
            send_results(run, folder)
            send_examples(run, [AttackedImage("image 3, jpeg_50", image, image // 2, [17, 3], 32)])
        found[folder.name] = (folder, *read_back(folder))
    return found


def curve(records, kind: str, metric: str) -> list[tuple[float, float]]:
    items = [entry["item"] for entry in of_type(records, "history")]
    name = f"robustness/{kind}/{metric}"
    return [(item[f"strength/{kind}"], item[name]) for item in items if name in item]


def test_curves_lie_over_the_strength(sent):
    for name, metrics in (
        ("f", ("bit_accuracy", "attribution_accuracy", "fid")),
        ("a", ("accuracy", "accuracy_macro", "fdr", "control/raw/accuracy")),
    ):
        folder, _, records = sent[name]
        rules = {entry.get("name"): entry.get("step_metric") for entry in of_type(records, "metric")}
        numbers = read_metrics(folder)
        for metric in metrics:
            assert rules[f"robustness/jpeg/{metric}"] == "strength/jpeg"
            assert rules[f"robustness/noise/{metric}"] == "strength/noise"
            points = curve(records, "jpeg", metric)
            assert [strength for strength, _ in points] == [10, 30, 50, 60, 70, 80, 90, 95, 100]
            assert dict(points)[50] == pytest.approx(numbers[f"test/jpeg_50/{metric}"].value)
            clean = numbers[f"test/clean/{metric}"] if name == "f" else numbers[f"test/{metric}"]
            assert points[-1] == (100, pytest.approx(clean.value))  # quality: no attack lies at the upper end
            assert curve(records, "noise", metric)[0] == (0, pytest.approx(clean.value))


def test_intervals_are_there_and_out_of_the_way(sent):
    _, _, records = sent["f"]
    rules = {entry.get("name"): entry for entry in of_type(records, "metric")}
    low = "interval/robustness/jpeg/bit_accuracy/low"
    assert rules[low]["options"]["hidden"]
    assert rules["strength/jpeg"]["options"]["hidden"]
    assert any(low in entry["item"] for entry in of_type(records, "history"))


def test_runs_say_what_they_are_and_where_they_come_from(sent):
    _, summary, records = sent["f"]
    attacks = {f"attack:{name}" for name in ("paper", "grid-noise", "grid-blur", "grid-jpeg", "grid-combination")}
    assert set(summary["tags"]) == {"generator:score-ldm", "decoder:amortised", "data:fashion"} | attacks
    origin = summary["config"]["provenance"]
    assert (origin["git_commit"], origin["seed"]) == (COMMIT, 0)
    assert origin["command"] == "evaluate.py test --ckpt_path RUN"
    assert {"representation:artifact", "embedding:rgb", "data:gm-small"} <= set(sent["a"][1]["tags"])
    artifacts = {entry["name"]: entry for entry in of_type(records, "artifact")}
    checkpoint, data = artifacts["checkpoint-" + "1" * 16], artifacts["data-" + "2" * 16]
    assert (checkpoint["type"], data["type"]) == ("model", "dataset")
    assert json.loads(checkpoint["metadata"])["hash"] == "1" * 64
    (content,) = checkpoint["manifest"]["contents"]
    assert content["ref"].startswith("file:///")
    assert "local_path" not in content  # a reference: nothing is uploaded
    assert data["manifest"]["contents"][0]["ref"] == "ni:///sha-256;" + "2" * 64


def tables(folder: Path) -> dict[str, dict]:
    found = {}
    for path in folder.glob("wandb/offline-run-*/files/media/table/**/*.table.json"):
        found[path.name.split("_")[0]] = json.loads(path.read_text())
    return found


def test_the_long_table_and_the_rows_are_tables(sent):
    folder, summary, _ = sent["f"]
    results, rows = tables(folder)["results"], tables(folder)["rows"]
    assert results["columns"] == ["part", "attack", "kind", "strength", "seed", "metric", "value", "low", "high", "n"]
    assert len(results["data"]) == 27 * 4
    entry = next(line for line in results["data"] if line[1] == "jpeg_50" and line[5] == "bit_accuracy")
    assert entry[6] == pytest.approx(read_metrics(folder)["test/jpeg_50/bit_accuracy"].value)
    assert "matching_bits/jpeg_50" in rows["columns"]
    assert len(rows["data"]) == 200
    assert "test/rows_note" not in summary["summary"]
    assert summary["summary"]["test/clean/bit_accuracy/low"] > 0.9
    attributor = tables(sent["a"][0])["rows"]
    assert {"file", "source", "predicted/clean", "predicted/jpeg_50", "distance"} <= set(attributor["columns"])


def test_no_key_and_no_decoded_bit_leaves(sent):
    folder = sent["f"][0]
    assert SECRET in (folder / "rows.jsonl").read_text()
    for path in folder.glob("wandb/**/*"):
        if path.is_file():
            assert SECRET.encode() not in path.read_bytes(), path
    row = {"index": 1, "matching_bits": {"clean": 31, "jpeg_50": SECRET}, "predicted": [0, 1], "logits": [0.3]}
    assert public_row(row) == {"index": 1, "matching_bits/clean": 31}


def test_too_many_rows_are_thinned_evenly_with_a_note(tmp_path, monkeypatch):
    run = attributor_run(tmp_path / "a")
    monkeypatch.setattr(wandb_record, "MOST_ROWS", 24)
    rows = [row["index"] for row in wandb_record._selected(run / "rows.jsonl", 240)]
    assert rows == list(range(0, 240, 10))

    class Summary(dict):
        pass

    class Run:
        summary = Summary()
        logged: dict = {}  # noqa: RUF012

        def log(self, values):
            self.logged.update(values)

    wandb_record._send_tables(Run(), run, [])
    assert len(Run.logged["test/rows"].data) == 24
    assert Run.summary["test/rows_note"] == "24 of 240 rows, evenly spaced; rows.jsonl has all of them"


def test_examples_carry_positions_of_wrong_bits_and_nothing_of_the_key(sent):
    folder, summary, _ = sent["f"]
    examples = summary["summary"]["test/examples"]
    assert examples["captions"] == ["image 3, jpeg_50: 2 of 32 bits wrong, at 3, 17"]
    assert list(folder.glob("wandb/offline-run-*/files/media/images/test/examples*.png"))


def test_wrong_bits_are_marked_at_their_places():
    image = np.full((32, 32, 3), 90, dtype=np.uint8)
    some = AttackedImage("x", image, image // 2, [3, 17], 32)
    picture = some.picture()
    assert picture[:128, :128].tolist() == image.repeat(4, axis=0).repeat(4, axis=1).tolist()
    assert (picture[:128, 134:262] == 45).all()
    strip = picture[134:]
    wrong = (strip == (213, 94, 0)).all(axis=2).any(axis=0)  # columns that hold a wrong cell
    cells = {int(column) // 8 for column in np.flatnonzero(wrong)}
    assert cells == {3, 17}
    assert (AttackedImage("x", image, image, [], 32).picture()[134:] == (213, 94, 0)).all(axis=2).sum() == 0
    assert AttackedImage("x", image, image, [], 32).text == "x: all 32 bits right"
    assert AttackedImage("x", image, image).picture().shape == (128, 262, 3)  # of an attributor: no key
    assert AttackedImage("x", image, image, range(100), 128).picture().shape[0] > strip.shape[0] + 134


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"wrong_bits": [32]}, r"wrong bits at \[32\], expected 0 to 31"),
        ({"after": np.zeros((4, 4, 3), np.uint8)}, "two uint8"),
    ],
)
def test_examples_that_make_no_sense_are_refused(change, message):
    image = np.zeros((8, 8, 3), dtype=np.uint8)
    with pytest.raises(ValueError, match=message):
        AttackedImage(**{"caption": "x", "before": image, "after": image, "wrong_bits": [1], "bits": 32, **change})


def test_descriptions_name_plug_ins_files_and_lists(tmp_path):
    model = {
        "generator": "models/stylegan2-ffhq.pkl",
        "decoder": {"name": "inversion", "steps": 100},
        "test_attacks": ["paper", {"kind": "jpeg", "quality": 50}, "configs/attacks/robustness.yaml"],
    }
    about = describe({"model": {"init_args": model}, "seed_everything": 3}, {"experiment": "e", "purpose": "test"})
    assert about.tags == (
        "generator:stylegan2-ffhq", "decoder:inversion", "attack:paper", "attack:jpeg", "attack:robustness",
    )  # fmt: skip
    assert (about.group, about.job_type, about.config["provenance"]["seed"]) == ("e", "test", 3)
    assert describe_run(tmp_path).tags == ()  # an empty folder


def test_a_disabled_run_is_sent_nothing_and_stops_nothing(tmp_path):
    import wandb

    folder = fingerprint_run(tmp_path / "f", kinds=["jpeg"])
    run = wandb.init(mode="disabled", dir=tmp_path)
    send_results(run, folder)
    run.finish()


@pytest.mark.parametrize(
    ("purpose", "used", "logged"), [("test", {"model", "dataset"}, set()), ("train", {"dataset"}, {"model"})]
)
def test_online_a_run_uses_what_it_was_made_from_and_logs_what_it_made(tmp_path, purpose, used, logged):
    class Config(dict):
        def update(self, values, allow_val_change):
            super().update(values)

    class Run:
        offline, tags = False, None

        def __init__(self):
            self.config, self.used, self.logged = Config(), set(), set()

        def use_artifact(self, artifact):
            self.used.add(artifact.type)

        def log_artifact(self, artifact):
            self.logged.add(artifact.type)

    folder = fingerprint_run(tmp_path / "f", kinds=["jpeg"])
    facts = json.loads((folder / "provenance.json").read_text())
    (folder / "provenance.json").write_text(json.dumps({**facts, "purpose": purpose}))
    run = Run()
    wandb_record._send_origin(run, folder)
    assert (run.used, run.logged) == (used, logged)

"""`evaluate.py sweep` with a small program: results, resuming, failures, interrupts."""

from __future__ import annotations

import csv
import json
import os
import signal
import sys
import threading
import time
from pathlib import Path

import pytest
import yaml

import evaluate
from lightning_modules.cli.stopping import Stopped, obey_signals
from lightning_modules.cli.sweep.command import _alone
from lightning_modules.cli.sweep.runs import PointRun, _start, _stop
from lightning_modules.metrics.intervals import Estimate, proportion
from lightning_modules.reporting.run_files import METRICS_FILE
from lightning_modules.reporting.sweep_table import FID_OWN, SweepPoint, sweep_markdown, trade_off_points

ATTACKED = "test/noise/bit_accuracy"
PROGRAM = """
import json, subprocess, sys, time
from pathlib import Path

options = dict(word[2:].split("=", 1) for word in sys.argv[1:])
run, sigma = Path(options["run_dir"]), float(options["model.sigma"])
with (Path(__file__).parent / "calls.txt").open("a") as calls:
    calls.write(options["model.sigma"] + "\\n")
print("sigma", sigma)
if options["mode"] == "wait":
    child = subprocess.Popen(["sleep", "300"])
    (run / "child").write_text(str(child.pid))
    time.sleep(300)
if options["mode"] == "fail" and sigma == 2:
    sys.exit("sigma is too large")
if options["mode"] != "forget":
    entry = lambda value: {"value": value, "low": value - 0.1, "high": value + 0.1, "n": 1234, "interval": "wilson 95%"}
    names = {"test/clean/bit_accuracy": 0.2 * sigma, "ATTACKED": 0.1 * sigma, "test/quality/fid_own": 10 * sigma}
    (run / "metrics.json").write_text(json.dumps({name: entry(value) for name, value in names.items()}))
""".replace("ATTACKED", ATTACKED)


@pytest.fixture
def sweep(tmp_path):
    """Run the sweep of sigma 1, 2, 3 in some mode; `calls` are the points that the program has run."""
    (tmp_path / "program.py").write_text(PROGRAM)
    (tmp_path / "base.yaml").write_text("a: 1")

    def run(mode="write", *further, values=(1, 2, 3)):
        content = {
            "program": str(tmp_path / "program.py"),
            "method": "grid",
            "metric": {"name": ATTACKED, "goal": "maximize"},
            "parameters": {"model.sigma": {"values": list(values)}},
            "command": ["${env}", "${interpreter}", "${program}", f"--config={tmp_path / 'base.yaml'}", "${args}"],
        }
        (tmp_path / "sweep.yaml").write_text(yaml.safe_dump(content))
        command = ["sweep", "--config", str(tmp_path / "sweep.yaml"), "--out", str(tmp_path / "out"), *further]
        return evaluate.main([*command, f"--mode={mode}"])

    run.calls = lambda: (tmp_path / "calls.txt").read_text().split()
    return run


def table(folder: Path) -> list[dict[str, str]]:
    return list(csv.DictReader((folder / "sweep.csv").read_text().splitlines()))


def test_a_sweep_leaves_tables_a_figure_and_a_run_folder_a_point(sweep, tmp_path, capsys):
    out = sweep("write", "--processes", "2")
    rows = table(out)
    assert [row["sigma"] for row in rows] == ["1", "2", "3"]
    assert [float(row[ATTACKED]) for row in rows] == pytest.approx([0.1, 0.2, 0.3])
    assert (rows[0]["state"], rows[0]["folder"], rows[0][f"{ATTACKED}/n"]) == ("finished", "sigma=1", "1234")
    markdown = (out / "sweep.md").read_text()
    assert "| sigma=2 | 40.0\N{NO-BREAK SPACE}% (30.0 to 50.0\N{NO-BREAK SPACE}%; 1,234) | 20.0" in markdown
    assert "3 of 3 points finished" in markdown
    assert (out / "trade_off.png").read_bytes().startswith(b"\x89PNG")
    assert "sigma 3.0" in (out / "sigma=3" / "log.txt").read_text()
    assert capsys.readouterr().out.splitlines()[-1] == str(out)


def test_a_second_call_runs_only_new_points_and_points_whose_config_changed(sweep, tmp_path):
    sweep(values=(1, 2))
    out = sweep(values=(1, 2, 3))
    assert sweep.calls() == ["1", "2", "3"]
    assert len(table(out)) == 3
    (tmp_path / "base.yaml").write_text("a: 2")
    sweep(values=(1,))
    assert sweep.calls() == ["1", "2", "3", "1"]
    assert (out / "sigma=1.earlier-1" / METRICS_FILE).is_file()
    assert len(table(out)) == 1


def test_a_failed_point_is_reported_and_run_again_while_the_others_stand(sweep, tmp_path, capsys):
    with pytest.raises(SystemExit, match="1 of 3 points failed: sigma=2"):
        sweep("fail")
    out = tmp_path / "out"
    said = capsys.readouterr().out
    assert "sigma=2: failed with status 1" in said
    assert "sigma is too large" in said
    assert [row["state"].split()[0] for row in table(out)] == ["finished", "failed", "finished"]
    assert "2 of 3 points finished" in (out / "sweep.md").read_text()
    with pytest.raises(SystemExit, match="1 of 3"):
        sweep("fail")
    assert sweep.calls() == ["1", "2", "3", "2"]
    assert "too large" in (out / "sigma=2.earlier-1" / "log.txt").read_text()


def test_a_program_that_writes_no_metrics_has_failed(sweep, tmp_path, capsys):
    with pytest.raises(SystemExit, match="3 of 3 points failed"):
        sweep("forget")
    assert "failed: no metrics.json in" in capsys.readouterr().out
    assert not (tmp_path / "out" / "trade_off.png").exists()


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"


def wait_for(condition, seconds=20.0):
    end = time.monotonic() + seconds
    while not condition() and time.monotonic() < end:
        time.sleep(0.05)
    assert condition()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stopped_sweep_ends_its_points_and_what_they_started(sweep, tmp_path, number, request):
    child = tmp_path / "out" / "sigma=1" / "child"
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a background job of a shell ignores it
    request.addfinalizer(lambda: signal.signal(signal.SIGINT, before))

    def stop():
        wait_for(lambda: child.is_file() and child.read_text())
        os.kill(os.getpid(), number)

    thread = threading.Thread(target=stop)
    thread.start()
    with obey_signals(), pytest.raises(Stopped):
        sweep("wait")
    thread.join()
    pid = int(child.read_text())
    wait_for(lambda: not alive(pid))
    assert not (tmp_path / "out" / "sigma=2").exists()
    sweep("write")  # and goes on from there
    assert sweep.calls() == ["1", "1", "2", "3"]


def test_a_folder_is_held_by_one_sweep_and_by_points_that_outlive_it(tmp_path):
    with _alone(tmp_path), pytest.raises(SystemExit, match="in use by another sweep"), _alone(tmp_path):
        pass
    command = [sys.executable, "-c", "import time; time.sleep(300)"]
    with _alone(tmp_path) as lock:
        running = _start(PointRun("a", tmp_path / "a", "-c", command), dict(os.environ), lock)
    try:
        with pytest.raises(SystemExit, match="or by its last points"), _alone(tmp_path):
            pass
    finally:
        _stop([running.process])
    with _alone(tmp_path):
        pass


def test_a_missing_program_ends_the_sweep_before_it_starts(sweep, tmp_path):
    (tmp_path / "program.py").unlink()
    with pytest.raises(SystemExit, match="found no program"):
        sweep()
    assert not (tmp_path / "out").exists()


def test_the_table_names_what_no_point_has_and_marks_the_configs_own_setting():
    metrics = {"test/clean/bit_accuracy": proportion(9, 10), FID_OWN: Estimate(3.0, None, None, 50, "none")}
    points = [
        SweepPoint("a=1", {"a": 1, "kind": "x"}, "finished", "a=1", metrics, mark=True),
        SweepPoint("a=2", {"a": 2, "kind": "x"}, "failed with status 1", "a=2"),
    ]
    text = sweep_markdown(points, "Sweep", ATTACKED)
    assert "| a=1 (the config's own) | 90.0" in text
    assert "3.00 (50) |" in text
    assert "a=2: failed with status 1 | – | – | – |" in text
    assert f"No point has {ATTACKED}" in text
    drawn, along = trade_off_points(points, None)
    assert along == "a"
    assert [(point.group, point.order, point.mark) for point in drawn] == [("kind x", 1.0, True)]
    assert trade_off_points(points, ATTACKED)[0] == []


@pytest.mark.slow
def test_train_itself_runs_as_a_point(gm_root, tmp_path, monkeypatch):
    monkeypatch.chdir(Path(__file__).parents[3])
    content = yaml.safe_load(f"""
        program: train.py
        method: grid
        metric: {{name: test/accuracy, goal: maximize}}
        parameters:
          model.init_args.learning_rate: {{values: [1.0e-3]}}
          data: {{parameters: {{init_args: {{parameters: {{batch_size: {{value: 8}}}}}}}}}}
        command: ["${{env}}", "${{interpreter}}", "${{program}}", --config=configs/attribution/gm_fashion.yaml,
          --data.init_args.root={gm_root}, --data.init_args.num_workers=0, --model.init_args.control_seeds=1,
          "--model.init_args.controls=[raw]", --trainer.accelerator=cpu, --trainer.max_epochs=1,
          --trainer.limit_train_batches=2, --trainer.limit_val_batches=2, --trainer.logger=false,
          --data.init_args.cache_dir={tmp_path / "cache"}, --trainer.enable_checkpointing=false, "${{args}}"]
    """)
    (tmp_path / "sweep.yaml").write_text(yaml.safe_dump(content))
    out = evaluate.main(["sweep", "--config", str(tmp_path / "sweep.yaml"), "--out", str(tmp_path / "out")])
    (row,) = table(out)
    assert row["state"] == "finished"
    assert (
        float(row["test/accuracy"])
        == json.loads((out / row["folder"] / METRICS_FILE).read_text())["test/accuracy"]["value"]
    )
    assert "batch_size: 8" in (out / row["folder"] / "config.yaml").read_text()

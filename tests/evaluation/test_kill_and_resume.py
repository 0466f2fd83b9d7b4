"""A test that is killed at any moment goes on where it stopped, on any number of processes, to the same bytes."""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from attributor_runs import write_config as write_attributor
from tiny_fingerprints import write_config as write_fingerprint
from tiny_fingerprints import write_vq

import evaluate
import train

FORK = multiprocessing.get_context("fork")
CPU = ["--trainer.accelerator", "cpu", "--trainer.enable_progress_bar", "false"]
BYTES = ("metrics.json", "rows.jsonl", "results.csv")  # the page tells the command, with its number of processes


@pytest.fixture(scope="module", params=[pytest.param("attributor", marks=pytest.mark.slow), "fingerprint"])
def test_command(request, tmp_path_factory, gm_root) -> tuple[list[str], Path]:
    """The command of a test of about twenty blocks under three conditions, and the folder of one that finished."""
    folder = tmp_path_factory.mktemp(request.param)
    if request.param == "attributor":
        config = write_attributor(folder, gm_root, model={"controls": ["raw"]}, trainer={"max_epochs": 1})
        options = ["--data.init_args.block_size", "2", "--model.init_args.test_attacks=[jpeg_50, noise_0.05]"]
    else:
        config = write_fingerprint(folder, write_vq(folder / "g.safetensors"), **{"test.features": "fashion_cnn"})
        options = ["--data.init_args.block_size", "8", "--model.init_args.test_attacks=[jpeg_50, noise_0.05]"]
        options += ["--data.init_args.test_images", "30", "--data.init_args.negative_images", "40"]
    run = folder / "run"
    train.main(["--config", str(config), "--run_dir", str(run), "--test_after_fit", "false"])
    command = ["test", "--ckpt_path", str(run), *options, *CPU]
    evaluate.main([*command, "--run_dir", str(folder / "whole")])
    return command, folder / "whole"


def contents(run: Path) -> dict[str, bytes]:
    return {name: (run / name).read_bytes() for name in BYTES}


class Processes:
    """The command in forks of this process, which has everything imported: ranks as torchrun starts them."""

    def __init__(self, command: list[str], run: Path, count: int) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        shared = [*command, "--run_dir", str(run), "--trainer.devices", str(count)]
        shared += ["--trainer.strategy", "ddp"] if count > 1 else []
        ranks = {"WORLD_SIZE": count, "LOCAL_WORLD_SIZE": count, "GROUP_RANK": 0, "MASTER_ADDR": "127.0.0.1"}
        self.forks = []
        for rank in range(count):
            mine = {**ranks, "MASTER_PORT": port, "RANK": rank, "LOCAL_RANK": rank, "TORCHELASTIC_RUN_ID": "tests"}
            environment = {name: str(value) for name, value in mine.items()} if count > 1 else {}
            self.forks.append(FORK.Process(target=_evaluate, args=(shared, environment)))
        for fork in self.forks:
            fork.start()

    def join(self, timeout: float | None = None) -> bool:
        """Whether all have ended, with success, in so many seconds."""
        until = None if timeout is None else time.monotonic() + timeout
        for fork in self.forks:
            fork.join(None if until is None else max(0.0, until - time.monotonic()))
        if any(fork.exitcode is None for fork in self.forks):
            return False
        assert [fork.exitcode for fork in self.forks] == [0] * len(self.forks)
        return True

    def kill_one(self, chance: random.Random) -> None:
        """Kill one rank, then what it leaves behind."""
        for victim in chance.sample(self.forks, len(self.forks)):
            victim.kill()
            victim.join()
            time.sleep(0.2)


def _evaluate(command: list[str], environment: dict[str, str]) -> None:
    os.environ.update(environment)
    nothing = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nothing, 1)
    os.dup2(nothing, 2)
    evaluate.main(command)


@pytest.mark.parametrize("kills", [3, pytest.param(10, marks=pytest.mark.slow)])
def test_killed_tests_end_with_the_bytes_of_one_that_was_not(test_command, tmp_path, kills):
    command, whole = test_command
    chance, killed, finished, run = random.Random(kills), 0, 0, tmp_path / "0"
    began = time.monotonic()
    evaluate.main([*command, "--run_dir", str(tmp_path / "timed")])
    seconds = time.monotonic() - began
    while killed < kills or not finished:
        processes = Processes(command, run, 1 + killed % 2)
        if not processes.join(chance.uniform(0.1, 1.0) * seconds if killed < kills else None):
            processes.kill_one(chance)
            killed += 1
            continue
        assert contents(run) == contents(whole)
        assert not list((run / "blocks").rglob("*.partial"))
        finished += 1
        run = tmp_path / str(finished)


def test_it_says_what_is_done_and_computes_nothing_twice(test_command, tmp_path, capsys):
    command, whole = test_command
    evaluate.main([*command, "--run_dir", str(tmp_path)])
    blocks = sorted((tmp_path / "blocks").glob("*/*.parquet"))
    for path in blocks[::2]:
        path.unlink()
    (tmp_path / "metrics.json").unlink()
    kept = {path: path.stat().st_mtime_ns for path in blocks[1::2]}
    capsys.readouterr()
    evaluate.main([*command, "--run_dir", str(tmp_path)])
    done, count = len(kept), len(blocks)
    assert f"{done} of {count} blocks done, {count - done} left" in capsys.readouterr().err
    assert {path: path.stat().st_mtime_ns for path in kept} == kept
    assert contents(tmp_path) == contents(whole)


def test_report_makes_everything_again_from_the_folder_alone(test_command, tmp_path):
    command, _ = test_command
    evaluate.main([*command, "--run_dir", str(tmp_path)])
    made = [*(tmp_path / name for name in (*BYTES, "report.html")), *(tmp_path / "figures").iterdir()]
    before = {path: path.read_bytes() for path in made}
    for path in made:
        path.unlink()
    evaluate.main(["report", str(tmp_path)])
    assert {path: path.read_bytes() for path in made} == before
    next((tmp_path / "blocks").glob("*/*.parquet")).unlink()
    with pytest.raises(SystemExit, match=r"found \d+ of \d+ blocks"):
        evaluate.main(["report", str(tmp_path)])


def test_the_same_command_without_a_folder_finds_its_unfinished_run(test_command, tmp_path, capsys):
    command, whole = test_command
    command = [*command, "--runs_dir", str(tmp_path)]
    evaluate.main(command)
    (first,) = (path.parent for path in tmp_path.rglob("metrics.json"))
    (first / "metrics.json").unlink()
    next((first / "blocks").glob("*/*.parquet")).unlink()
    capsys.readouterr()
    evaluate.main([*command, "--seed_everything", "5"])  # another command
    assert "goes on with the unfinished" not in capsys.readouterr().err
    evaluate.main(command)
    assert f"goes on with the unfinished {first}" in capsys.readouterr().err
    assert contents(first) == contents(whole)
    (first / "metrics.json").unlink()
    evaluate.main([*command, "--fresh", "true"])
    assert not (first / "metrics.json").exists()


def test_other_settings_are_refused_in_the_folder_and_replace_all_when_asked(test_command, tmp_path):
    command, _ = test_command
    evaluate.main([*command, "--run_dir", str(tmp_path)])
    other = [*command, "--run_dir", str(tmp_path), "--model.init_args.test_attacks=[jpeg_80]"]
    with pytest.raises(ValueError, match=r"holds another evaluation: found conditions.*--fresh true"):
        evaluate.main(other)
    evaluate.main([*other, "--fresh", "true"])
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    assert not [name for name in metrics if "jpeg_50" in name]
    assert [name for name in metrics if "jpeg_80" in name]
    assert "jpeg_50" not in (tmp_path / "rows.jsonl").read_text()


@pytest.mark.parametrize("processes", [3, *(pytest.param(count, marks=pytest.mark.slow) for count in (2, 5, 25))])
def test_any_number_of_processes_gives_the_same_bytes(test_command, tmp_path, processes):
    """More processes than blocks too."""
    command, whole = test_command
    assert Processes(command, tmp_path, processes).join()
    assert contents(tmp_path) == contents(whole)


@pytest.mark.slow
def test_two_machines_give_the_same_bytes(test_command, tmp_path):
    """Two launches of torchrun on loopback, of two processes each, as docs/distributed.md says."""
    command, whole = test_command
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    options = ["--run_dir", str(tmp_path), "--trainer.num_nodes", "2", "--trainer.devices", "2"]
    options += ["--trainer.strategy", "ddp"]
    launch = [sys.executable, "-m", "torch.distributed.run", "--nnodes", "2", "--nproc-per-node", "2"]
    launch += ["--master-addr", "127.0.0.1", "--master-port", str(port)]
    script = Path(evaluate.__file__)
    machines = [
        subprocess.Popen([*launch, "--node-rank", str(node), str(script), *command, *options], cwd=script.parent)
        for node in range(2)
    ]
    assert [machine.wait() for machine in machines] == [0, 0]
    assert contents(tmp_path) == contents(whole)

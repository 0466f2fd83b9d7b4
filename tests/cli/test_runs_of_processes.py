"""Real runs of several processes: what reaches the user, what a kill and a signal do to all of them."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import yaml
from png_files import save_png

from lightning_modules.common.shipped import TRAINED

ROOT = Path(__file__).parents[2]
GO_ON = "what is finished is kept, and the same command goes on from there"
KNOWN = (
    r"",
    r"warning: .*: the images look grouped: .*",  # as those of the test are
    r"  \| Name .*Params.*", r"-+", r"\d+ +\| \w+ .*", r"[\d.]+ *[KM]? +(Non-t|T)(rainable|otal).*",
    r"[\d.]+ +Total estimated model params size \(MB\)", r"\d+ +Modules in (train|eval) mode",
    r"[\d.]+ *\w? +Total Flops",
    r"note: \d+ of \d+ blocks done, \d+ left",  # of a test that goes on
)  # fmt: skip
"""All that a run writes to standard error: the summary of the networks, and real warnings."""


def unknown_lines(stderr: str) -> list[str]:
    return [line for line in stderr.splitlines() if not any(re.fullmatch(known, line) for known in KNOWN)]


@pytest.fixture(scope="module")
def config(tmp_path_factory, gm_root) -> Path:
    """A training of seconds, with loggers and all else as they are by themselves."""
    folder = tmp_path_factory.mktemp("processes")
    settings = {
        "trainer": {"accelerator": "cpu", "max_epochs": 1},
        "model": {
            "class_path": "lightning_modules.attributor.Attributor",
            "init_args": {"network": "small_cnn_16", "controls": []},
        },
        "data": {
            "class_path": "datamodules.GMDataModule",
            "init_args": {"root": str(gm_root), "batch_size": 8, "cache_dir": str(folder / "cache"),
                          "train_fraction": 0.6, "val_fraction": 0.15, "test_fraction": 0.25},
        },
    }  # fmt: skip
    path = folder / "small.yaml"
    path.write_text(yaml.safe_dump(settings))
    return path


MARK = "RUN_OF_A_TEST"  # in the environment of its processes
STARTED: list[Run] = []


class Run:
    """Commands of one run, each of them a process or several, that leave their standard error in files."""

    def __init__(self, folder: Path, commands: list[list[str]], environments: list[dict[str, str]]) -> None:
        self.files = [folder / f"stderr-{number}" for number in range(len(commands))]
        self.folder = folder
        STARTED.append(self)
        ours = {MARK: str(folder), "OMP_NUM_THREADS": "1", "WANDB_MODE": "offline", "PYTHONPATH": str(ROOT)}
        plain = {name: value for name, value in os.environ.items() if not name.startswith(("PYTEST", "MANIFOLD"))}
        self.processes = []
        for command, environment, file in zip(commands, environments, self.files, strict=True):
            with file.open("w") as stderr:
                self.processes.append(
                    subprocess.Popen(
                        command, stdout=subprocess.DEVNULL, stderr=stderr, start_new_session=True, cwd=folder,
                        env=plain | ours | environment,
                    )
                )  # fmt: skip

    def wait_for(self, condition: Callable[[], object], seconds: float = 300) -> None:
        until = time.monotonic() + seconds
        while not condition():
            assert all(process.poll() is None for process in self.processes), self.stderr
            assert time.monotonic() < until, self.stderr
            time.sleep(0.05)

    def running(self) -> dict[int, tuple[list[bytes], dict[str, str]]]:
        """Words and environment of every process of the run that is alive, by its id.

        W&B's own is left out: it writes the rest of its record when the others have ended.
        """
        found = {}
        for place in Path("/proc").iterdir():
            if place.name.isdigit():
                try:
                    lines = (place / "environ").read_bytes().decode(errors="replace").split("\0")
                    words = (place / "cmdline").read_bytes().split(b"\0")
                    state = (place / "stat").read_text().rpartition(")")[2].split()[0]
                except OSError:
                    continue
                told = dict(line.split("=", 1) for line in lines if "=" in line)
                if told.get(MARK) == str(self.folder) and state != "Z" and b"wandb-core" not in words[0]:
                    found[int(place.name)] = (words, told)
        return found

    def ranks(self, per_machine: int) -> dict[int, int]:
        """Process ids of the run's own processes by rank."""
        found = {}
        for number, (words, told) in self.running().items():
            if any(word.endswith(b"train.py") for word in words[1:3]):
                rank = int(told.get("NODE_RANK", 0)) * per_machine + int(told.get("LOCAL_RANK", 0))
                found[int(told.get("RANK", rank))] = number
        return found

    def gone(self, within: float) -> list[int]:
        """Statuses, once all have ended and nothing of them is left; a busy machine gets as much longer."""
        until = time.monotonic() + within * max(1.0, os.getloadavg()[0] / (os.cpu_count() or 1))
        while self.running():
            assert time.monotonic() < until, (list(self.running()), self.stderr)
            time.sleep(0.05)
            for process in self.processes:
                process.poll()
        return [process.wait() for process in self.processes]

    def kill(self) -> None:
        for number in self.running():
            with suppress(ProcessLookupError):
                os.kill(number, signal.SIGKILL)
        for process in self.processes:
            process.wait()

    @property
    def stderr(self) -> str:
        return "".join(file.read_text() for file in self.files)


@pytest.fixture(autouse=True)
def interruptible():
    """A background job of a shell, of which this may be one, ignores Ctrl-C, and so would what it starts."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture(autouse=True)
def no_process_is_left():
    yield
    while STARTED:
        STARTED.pop().kill()


def free_port() -> str:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return str(server.getsockname()[1])


def start(folder: Path, config: Path, how: str, *options: str) -> tuple[Run, int]:
    """A training without end on 3 processes (two machines: 4); also how many there are."""
    script = [str(ROOT / "train.py"), "--config", str(config), "--run_dir", str(folder / "run")]
    script += ["--trainer.max_epochs", "10000", "--trainer.strategy", "ddp", *options]
    two = ["--trainer.num_nodes", "2", "--trainer.devices", "2"]
    torchrun = [sys.executable, "-m", "torch.distributed.run"]
    port = free_port()
    if how == "lightning":
        return Run(folder, [[sys.executable, *script, "--trainer.devices", "3"]], [{}]), 3
    if how == "torchrun":
        words = [*torchrun, "--nproc_per_node", "3", "--master_port", port, *script, "--trainer.devices", "3"]
        return Run(folder, [words], [{}]), 3
    if how == "two machines":
        place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        command = [sys.executable, *script, *two]
        return Run(folder, [command] * 2, [{**place, "NODE_RANK": str(node)} for node in range(2)]), 4
    words = [*torchrun, "--nnodes", "2", "--nproc_per_node", "2", "--master_addr", "127.0.0.1", "--master_port", port]
    return Run(folder, [[*words, "--node_rank", str(node), *script, *two] for node in range(2)], [{}, {}]), 4


def under_way(run: Run, folder: Path, count: int) -> dict[int, int]:
    run.wait_for((folder / "run" / "checkpoints" / "last.ckpt").is_file)
    ranks = run.ranks(2)
    assert sorted(ranks) == list(range(count))
    return ranks


def own_lines(stderr: str) -> list[str]:
    """Without what torchrun says of itself."""
    return [line for line in unknown_lines(stderr) if line.startswith(("error:", "stopped"))]


@pytest.mark.slow
def test_a_killed_process_ends_a_run_of_three_and_nothing_else_reaches_the_user(config, tmp_path):
    run, count = start(tmp_path, config, "lightning")
    os.kill(under_way(run, tmp_path, count)[1], signal.SIGKILL)
    assert run.gone(within=5) == [1]
    assert unknown_lines(run.stderr) == [f"error: process 2 of 3 has died (killed? out of memory?); {GO_ON}"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("how", "victim", "moment"),
    [("lightning", 0, 0.05), ("lightning", 2, 0.5), ("torchrun", 0, 0.5), ("torchrun", 2, 0.05),
     ("two machines", 0, 0.3), ("two machines", 3, 0.05), ("torchrun on two machines", 2, 0.2)],
)  # fmt: skip
def test_a_killed_process_ends_every_kind_of_run(how, victim, moment, config, tmp_path):
    run, count = start(tmp_path, config, how)
    ranks = under_way(run, tmp_path, count)
    time.sleep(moment)
    os.kill(ranks[victim], signal.SIGKILL)
    statuses = run.gone(within=8 if "torchrun" in how else 5)  # torchrun itself takes its time
    assert own_lines(run.stderr) == [
        f"error: process {victim + 1} of {count} has died (killed? out of memory?); {GO_ON}"
    ]
    assert 0 not in statuses


@pytest.mark.slow
@pytest.mark.parametrize(
    ("how", "who", "number"),
    [("lightning", "all", signal.SIGINT), ("lightning", 0, signal.SIGTERM), ("lightning", 2, signal.SIGTERM),
     ("torchrun", "torchrun", signal.SIGTERM), ("two machines", 3, signal.SIGTERM)],
)  # fmt: skip
def test_a_stopped_training_says_how_it_goes_on(how, who, number, config, tmp_path):
    run, count = start(tmp_path, config, how)
    ranks = under_way(run, tmp_path, count)
    if who == "all":
        os.killpg(run.processes[0].pid, number)  # as a terminal does
    else:
        os.kill(run.processes[0].pid if who == "torchrun" else ranks[who], number)
    statuses = run.gone(within=8 if how == "torchrun" else 5)
    (line,) = own_lines(run.stderr)
    assert re.match(
        r"stopped; this goes on with the training after epoch \d+ of 10,000: python train\.py --config ", line
    )
    assert line.endswith(f"--ckpt_path {tmp_path / 'run'}")
    assert how == "torchrun" or statuses == [128 + number] * len(statuses)


@pytest.mark.slow
def test_training_resuming_testing_and_predicting_on_two_processes_say_what_we_know(config, gm_root, tmp_path):
    two = ["--trainer.devices", "2", "--trainer.strategy", "ddp"]
    run = tmp_path / "run"
    commands = [
        ["train.py", "--config", str(config), "--run_dir", str(run)],
        ["train.py", "--config", str(config), "--ckpt_path", str(run), "--trainer.max_epochs", "1"],
        ["evaluate.py", "test", "--ckpt_path", str(run), "--run_dir", str(tmp_path / "test")],
        ["evaluate.py", "predict", "--ckpt_path", str(run), "--out", str(tmp_path / "out.jsonl"),
         "--images", str(gm_root / "vae-blur")],
    ]  # fmt: skip
    for command in commands:
        done = Run(tmp_path, [[sys.executable, str(ROOT / command[0]), *command[1:], *two]], [{}])
        assert done.processes[0].wait(300) == 0, done.stderr
        assert unknown_lines(done.stderr) == []
        assert done.stderr.count("look grouped") <= 1 + command[0].startswith("train")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("command", "number", "status"),
    [("test", signal.SIGTERM, 143), ("predict", signal.SIGINT, 130), ("generate", signal.SIGTERM, 143)],
)
def test_a_search_and_a_generation_are_stopped_in_the_middle(command, number, status, tmp_path):
    """Each would go on for many minutes."""
    images, folder = tmp_path / "images", TRAINED / "ldm"
    images.mkdir()
    for place, pixels in enumerate(np.random.default_rng(0).integers(0, 256, (60, 32, 32, 3), np.uint8)):
        save_png(images / f"{place}.png", pixels)
    search = ["--model.init_args.decoder.name=inversion", "--model.init_args.decoder.options={\"iterations\": 1000000}",
              "--trainer.accelerator=cpu", "--run_dir", str(tmp_path / "run")]  # fmt: skip
    evaluate = [sys.executable, str(ROOT / "evaluate.py")]
    if command == "test":
        words = ["test", "--ckpt_path", str(folder), *search]
    elif command == "predict":
        registry = tmp_path / "users.json"
        fingerprint = str(folder / "fingerprint.safetensors")
        subprocess.run([*evaluate, "users", "create", str(registry), "a", "--fingerprint", fingerprint], check=True)
        words = ["predict", "--ckpt_path", str(folder), "--registry", str(registry), "--images", str(images), *search]
    else:
        words = [
            "generate",
            "--generator",
            "score-ddpm",
            "--n",
            "100000",
            "--processes",
            "2",
            "--out",
            str(tmp_path / "run"),
        ]
    run = Run(tmp_path, [[*evaluate, *words]], [{}])
    run.wait_for(lambda: (tmp_path / "run").is_dir())
    time.sleep(15 if command != "generate" else 8)
    run.processes[0].send_signal(number)
    assert run.gone(within=6) == [status]
    assert run.stderr.splitlines()[-1] == f"stopped; {GO_ON}"
    if command == "test":  # rows of a prediction wait in theirs to be gone on with, as images of a generation do
        assert not list((tmp_path / "run").rglob("*.partial"))


@pytest.mark.slow
def test_a_registration_of_many_users_is_stopped_and_leaves_the_registry_whole(tmp_path):
    registry, evaluate = tmp_path / "users.json", [sys.executable, str(ROOT / "evaluate.py")]
    create = [*evaluate, "users", "create", str(registry)]
    subprocess.run(
        [*create, "alice", "--fingerprint", str(TRAINED / "ldm" / "fingerprint.safetensors")], check=True, cwd=tmp_path
    )
    before = registry.read_bytes()
    run = Run(tmp_path, [[*create, *(f"user-{number}" for number in range(10_000))]], [{}])
    time.sleep(8)
    run.processes[0].send_signal(signal.SIGTERM)
    assert run.gone(within=5) == [143]
    assert registry.read_bytes() == before
    assert not list(tmp_path.glob("*.partial"))
    listed = subprocess.run([*evaluate, "users", "list", str(registry)], check=True, capture_output=True, text=True)
    assert "alice" in listed.stdout


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["train.py", "--config", "quickstart.yaml"], "name it with --run_dir"),
        (["evaluate.py", "test", "--ckpt_path", "nowhere"], "no file nowhere"),
        (["train.py", "--confg", "x"], "unknown key 'confg': did you mean config?"),
    ],
)
def test_processes_of_torchrun_that_find_the_same_mistake_say_it_once(words, said, tmp_path):
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "3", "--master_port",
               free_port(), str(ROOT / words[0]), *words[1:]]  # fmt: skip
    run = Run(tmp_path, [command], [{}])
    run.processes[0].wait(120)
    assert run.stderr.count(said) == 1
    assert "exitcode  : 2 " in run.stderr
    assert "lightning_modules" not in run.stderr  # no traceback of ours


def test_the_reader_of_lines_knows_what_is_new():
    assert unknown_lines("\n---\nGPU available: False\nwarning: something\n1.2 M     Trainable params\n") == [
        "GPU available: False",
        "warning: something",
    ]

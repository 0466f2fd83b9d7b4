"""A config that comes with a checkpoint builds no class of strangers, and its folder is no place to import from."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import yaml

from lightning_modules.cli import import_path
from lightning_modules.cli.errors import run_command
from lightning_modules.cli.framework import FrameworkCLI
from lightning_modules.cli.options import check_run
from lightning_modules.cli.trusted_classes import is_trusted
from lightning_modules.common.shipped import TRAINED

ROOT = Path(__file__).parents[2]
EVIL = "from pathlib import Path\nPath(__file__).with_name('executed').touch()\n\n\nclass Evil: ...\n"


@pytest.fixture
def run(tmp_path):
    """A run folder that ships, with a module beside its config that tells when it is imported."""
    folder = tmp_path / "run"
    (folder / "checkpoints").mkdir(parents=True)
    ldm = TRAINED / "ldm"
    (folder / "checkpoints" / "last.ckpt").write_bytes((ldm / "checkpoints" / "last.ckpt").read_bytes())
    (folder / "config.yaml").write_bytes((ldm / "config.yaml").read_bytes())
    (folder / "fingerprint.safetensors").write_bytes((ldm / "fingerprint.safetensors").read_bytes())
    for name in ("evil", "sitecustomise", "litlogger"):
        (folder / f"{name}.py").write_text(EVIL)
    return folder


def change(run: Path, *path: str, value: object) -> None:
    config = yaml.safe_load((run / "config.yaml").read_text())
    inner = config
    for name in path[:-1]:
        inner = inner[name] if inner.get(name) is not None else inner.setdefault(name, {}) or inner[name]
    inner[path[-1]] = value
    (run / "config.yaml").write_text(yaml.safe_dump(config))


EVIL_PLACES = {
    "callbacks": (("trainer", "callbacks"), [{"class_path": "evil.Evil"}], "trainer.callbacks.0"),
    "logger": (("trainer", "logger"), {"class_path": "evil.Evil"}, "trainer.logger"),
    "logger, a word": (("trainer", "logger"), "evil.Evil", "trainer.logger"),
    "callbacks, words": (("trainer", "callbacks"), ["evil.Evil"], "trainer.callbacks.0"),
    "text that is a mapping": (("trainer", "strategy"), "{class_path: evil.Evil}", "trainer.strategy"),
    "model": (("model", "class_path"), "evil.Evil", "model"),
    "data": (("data", "class_path"), "evil.Evil", "data"),
    "nested": (
        ("trainer", "callbacks"),
        [{"class_path": "pytorch_lightning.callbacks.LambdaCallback",
          "init_args": {"on_test_start": {"class_path": "evil.Evil"}}}],
        "trainer.callbacks.0.init_args.on_test_start",
    ),
    "the system": (("trainer", "profiler"), {"class_path": "subprocess.Popen"}, "trainer.profiler"),
}  # fmt: skip


@pytest.mark.parametrize("case", EVIL_PLACES)
def test_a_class_of_strangers_is_refused_with_its_place_and_what_to_type(case, run, capsys, monkeypatch, tmp_path):
    where, value, place = EVIL_PLACES[case]
    change(run, *where, value=value)
    monkeypatch.syspath_prepend(str(run))  # wherever it lies on the import path
    with pytest.raises(SystemExit) as left:
        run_command(lambda: build(run, tmp_path))
    assert left.value.code == 2
    said = capsys.readouterr().err
    name = "subprocess.Popen" if case == "the system" else "evil.Evil"
    assert f"{run / 'config.yaml'}: {place}: found the class {name}" in said
    assert f"--trust_classes {name.partition('.')[0]}" in said
    assert said.count("\n") == 1
    assert not (run / "executed").exists()


def build(run: Path, tmp_path: Path, *options: str) -> FrameworkCLI:
    args = ["--ckpt_path", str(run), "--run_dir", str(tmp_path / "out"), "--trainer.accelerator", "cpu", *options]
    return FrameworkCLI(check_run("test", args), purpose="test")


def test_a_config_beside_the_config_is_not_trusted_either(run, tmp_path, capsys, monkeypatch):
    (run / "more.yaml").write_text("class_path: evil.Evil\n")
    change(run, "trainer", "logger", value="more.yaml")
    monkeypatch.syspath_prepend(str(run))
    with pytest.raises(SystemExit):
        run_command(lambda: build(run, tmp_path))
    assert "found the class evil.Evil" in capsys.readouterr().err
    assert not (run / "executed").exists()


def test_own_classes_of_the_libraries_and_those_that_are_trusted_are_built(run, tmp_path, monkeypatch):
    own = tmp_path / "own"
    own.mkdir()
    (own / "mine_of_test.py").write_text(
        "from pytorch_lightning.callbacks import Callback\n\n\nclass Mine(Callback): ...\n"
    )
    monkeypatch.syspath_prepend(str(own))
    classes = [{"class_path": "mine_of_test.Mine"}, {"class_path": "pytorch_lightning.callbacks.DeviceStatsMonitor"}]
    change(run, "trainer", "callbacks", value=classes)
    change(run, "trainer", "logger", value=False)
    cli = build(run, tmp_path, "--trust_classes", "mine_of_test", "--trust_classes", "other.things")
    assert {"Mine", "DeviceStatsMonitor"} <= {type(each).__name__ for each in cli.trainer.callbacks}


def test_a_config_that_a_person_names_is_theirs_and_so_is_what_they_type(run, tmp_path, monkeypatch):
    (tmp_path / "mine_named.py").write_text(
        "from pytorch_lightning.callbacks import Callback\n\n\nclass Mine(Callback): ...\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    change(run, "trainer", "logger", value=False)
    cli = build(run, tmp_path, "--trainer.callbacks+=mine_named.Mine")
    assert "Mine" in [type(each).__name__ for each in cli.trainer.callbacks]
    change(run, "trainer", "callbacks", value=[{"class_path": "mine_named.Mine"}])
    cli = build(run, tmp_path, "--config", str(run / "config.yaml"))
    assert "Mine" in [type(each).__name__ for each in cli.trainer.callbacks]


@pytest.mark.parametrize(("typed", "trusted"), [("mine", True), ("mine.a", True), ("min", False), ("mine.a.B", True)])
def test_prefixes_are_whole_parts(typed, trusted):
    assert is_trusted("mine.a.B", [typed]) is trusted
    assert not is_trusted("torch.hub.load", [])
    assert not is_trusted("lightning_modules_of_others.A", [])


def test_what_is_no_prefix_is_refused(run):
    with pytest.raises(SystemExit, match=r"--trust_classes my-package, expected the beginning of a class path"):
        check_run("test", ["--ckpt_path", str(run), "--trust_classes", "my-package"])


STARTS = {
    "python -m": (["-m", "lightning_modules.cli", "test"], {}),
    "python -c": (["-c", "import evaluate; evaluate.run_command(evaluate.main)", "test"], {}),
    "an empty part of PYTHONPATH": ([str(ROOT / "evaluate.py"), "test"], {"PYTHONPATH": f"{ROOT}:"}),
    "a relative one": ([str(ROOT / "evaluate.py"), "test"], {"PYTHONPATH": f".:{ROOT}"}),
}  # fmt: skip


SLOW = ("python -c", "a relative one")


@pytest.mark.parametrize("start", [pytest.param(each, marks=[pytest.mark.slow] * (each in SLOW)) for each in STARTS])
def test_a_run_folder_is_no_import_path_however_a_command_is_started_in_it(start, run):
    """Modules that libraries look for, or that stand for libraries, lie in the working directory."""
    for name in ("yaml", "torch", "pytorch_lightning", "wandb", "numpy"):
        (run / f"{name}.py").write_text(EVIL)
    change(run, "trainer", "callbacks", value=["evil.Evil"])
    arguments, environment = STARTS[start]
    done = subprocess.run(
        [sys.executable, *arguments, "--ckpt_path", ".", "--run_dir", "../out", "--trust_classes", "evil"],
        cwd=run, capture_output=True, text=True, check=False,
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
    )  # fmt: skip
    assert not (run / "executed").exists(), done.stderr
    assert done.returncode == 2
    assert "evil" in done.stderr
    assert "Traceback" not in done.stderr


def test_relative_entries_stay_where_they_are_and_come_last(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", ["", "/usr/lib/python3", ".", "sub", str(tmp_path)])
    import_path.settle_import_path()
    assert sys.path == ["/usr/lib/python3", str(tmp_path / "sub"), str(import_path.PROJECT), str(tmp_path)]
    (tmp_path / "sub").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "sub")
    sys.path.append(str(tmp_path / "link"))
    import_path.never_import_from(tmp_path / "sub")
    assert sys.path == ["/usr/lib/python3", str(import_path.PROJECT), str(tmp_path)]


def test_the_checkpoint_that_ships_is_one(run):
    assert zipfile.is_zipfile(run / "checkpoints" / "last.ckpt")

"""The wheel: what is in it, and what it does in an environment and a folder of its own."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest

from lightning_modules.cli import entry

ROOT = Path(__file__).parents[1]
PACKAGES = ("lightning_modules", "datamodules")
COMMAND = "manifold-fingerprints"


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from a copy, so that nothing is left in the checkout, nor taken from an earlier build in it."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    source.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE", "train.py", "evaluate.py"):
        shutil.copy(ROOT / name, source / name)
    for name in (*PACKAGES, "configs", "tests"):
        ignored = shutil.ignore_patterns("__pycache__", "*.egg-info")
        shutil.copytree(ROOT / name, source / name, symlinks=True, ignore=ignored)
    command = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "--no-index", "--quiet"]
    subprocess.run([*command, "-w", str(folder), str(source)], check=True, capture_output=True)
    (built,) = folder.glob("*.whl")
    return built


def names_in(wheel: Path) -> set[str]:
    with zipfile.ZipFile(wheel) as archive:
        return set(archive.namelist())


def test_it_holds_every_file_of_the_packages_and_the_configs(wheel):
    expected = {
        file.relative_to(ROOT).as_posix()
        for package in PACKAGES
        for file in (ROOT / package).rglob("*")
        if file.is_file() and "__pycache__" not in file.parts and not file.name.startswith(".")
    }
    configs = {f"lightning_modules/{file.relative_to(ROOT).as_posix()}" for file in (ROOT / "configs").rglob("*.yaml")}
    assert {"lightning_modules/reporting/templates/report.html.j2", "lightning_modules/configs/quickstart.yaml"} <= (
        expected | configs
    )
    assert (expected | configs) - names_in(wheel) == set()


def test_it_holds_nothing_else_and_no_module_called_train(wheel):
    top = {name.partition("/")[0] for name in names_in(wheel)}
    (facts,) = top - set(PACKAGES)
    assert facts.endswith(".dist-info")
    assert f"{facts}/licenses/LICENSE" in names_in(wheel)
    with zipfile.ZipFile(wheel) as archive:
        assert archive.read(f"{facts}/top_level.txt").decode().split() == sorted(PACKAGES)
        assert f"{COMMAND} = lightning_modules.cli.entry:console" in archive.read(f"{facts}/entry_points.txt").decode()


@pytest.mark.slow
@pytest.mark.timeout(1800)  # a dozen processes, each of which imports Lightning
def test_it_is_usable_from_an_empty_folder(wheel, tmp_path):
    """An environment with the wheel alone; its dependencies are those that this one has, without this checkout."""
    builder = venv.EnvBuilder(with_pip=False, symlinks=True)
    builder.create(tmp_path / "venv")
    python = tmp_path / "venv" / "bin" / "python"
    install = ["-m", "pip", "--python", str(python), "install", "--no-deps", "--no-index", "--quiet", str(wheel)]
    subprocess.run([sys.executable, *install], check=True)
    purelib = subprocess.check_output(
        [python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"], text=True
    )
    # a path alone: the .pth files in it, an editable install among them, are not read
    (Path(purelib.strip()) / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    folder = tmp_path / "empty"
    folder.mkdir()
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    environment |= {"OMP_NUM_THREADS": "1", "WANDB_MODE": "disabled"}

    def run(*words: str) -> list[str]:
        command = [str(tmp_path / "venv" / "bin" / COMMAND), *words]
        done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout.splitlines()

    assert all(name in " ".join(run("--help")) for name in entry.COMMANDS)
    script = "import lightning_modules; print(lightning_modules.__file__)"
    loaded = subprocess.check_output([python, "-c", script], cwd=folder, env=environment, text=True)
    assert str(tmp_path / "venv") in loaded
    quiet = ("--trainer.enable_progress_bar=false", "--trainer.enable_model_summary=false")
    run("generate", "--config", "configs/gm_fashion/quickstart.yaml", "--n", "20", "--manifold_images", "40")
    small = ("--trainer.max_epochs=1", "--trainer.limit_train_batches=2", "--model.init_args.network=test_resnet")
    run_dir = run("train", "--config", "quickstart.yaml", *small, "--model.init_args.controls=[]", *quiet)[-1]
    assert Path(run_dir).is_relative_to(folder.resolve())
    tested = Path(run("test", "--ckpt_path", run_dir, *quiet)[-1])
    accuracy = [json.loads((place / "metrics.json").read_text())["test/accuracy"] for place in (tested, Path(run_dir))]
    assert accuracy[0] == accuracy[1]
    images = "data/gm-fashion-quickstart/gan-dcgan"
    named = run("predict", "--ckpt_path", run_dir, "--images", images, "--out", "named.jsonl", *quiet)[-1]
    assert len(Path(named).read_text().splitlines()) == 20
    run("users", "create", "users.json", "alice", "bob", "--fingerprint", "ldm")
    run("generate", "--config", "generate/fingerprinted.yaml", "--user", "alice", "--n", "4", "--out", "for-alice")
    judged = ("--ckpt_path", "ldm", "--images", "for-alice", "--registry", "users.json", "--combine", "true")
    verdicts = run("predict", *judged, "--out", "verdicts.jsonl", *quiet)[-1]
    assert json.loads(Path(verdicts).read_text().splitlines()[-1])["verdict"] == "alice"
    points = run("sweep", "--config", "sweeps/bits.yaml", "--dry_run")
    assert len(points) == 3
    assert all("-m lightning_modules.cli train --config=" in point for point in points)

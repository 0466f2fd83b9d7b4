"""What README, docs and CONTRIBUTING say can be typed, and what they name is there."""

from __future__ import annotations

import dataclasses
import inspect
import os
import re
import shlex
import shutil
import subprocess
import sys
import typing
from pathlib import Path

import numpy as np
import pytest
import pytorch_lightning as pl
from declared_options import declared_options
from PIL import Image

import datamodules
import train
from lightning_modules import zoo
from lightning_modules.attributor import Attributor
from lightning_modules.latent_fingerprint import LatentFingerprint

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
TRAINED = ROOT / "lightning_modules" / "fingerprints" / "trained" / "README.md"
TREES = ("lightning_modules", "datamodules", "configs", "tests", "docs")
SUFFIXES = (".py", ".md", ".yaml", ".json", ".png", ".toml", ".j2")
OF_USERS = {"photos", "data", "images", "runs"}  # folders that examples read or write
WRITTEN = {"sweep.md", "trade_off.png", "metrics.json", "provenance.json", "config.yaml", "users.json"}
WRITTEN |= {"evaluation.json", "results.csv", "comparison.html", "comparison.md"}
WRITTEN |= {"table.html", "table.md", "designs.yaml"}
WRITTEN |= {"model_index.json", "sources.yaml"}  # of runs, or of users
MODULES = {"model": [Attributor, LatentFingerprint, *(getattr(zoo, name) for name in zoo.__all__)]}
MODULES["data"] = [getattr(datamodules, name) for name in datamodules.__all__]


def page_name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def files_of_the_project() -> list[str]:
    here = [path for tree in TREES for path in (ROOT / tree).rglob("*") if "__pycache__" not in path.parts]
    return [path.relative_to(ROOT).as_posix() for path in here] + [path.name for path in ROOT.iterdir()]


@pytest.mark.parametrize("page", [*PAGES, TRAINED], ids=page_name)
def test_links_lead_somewhere(page):
    text = page.read_text()
    links = [link for link in re.findall(r"\]\(([^)\s]+)\)", text) if "://" not in link]
    for link in links:
        file, _, anchor = link.partition("#")
        target = (page.parent / file) if file else page
        assert target.exists(), f"{page.name}: {link}"
        if anchor:
            headings = re.findall(r"^#+ (.*)$", target.read_text(), re.MULTILINE)
            anchors = [re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings]
            assert anchor in anchors, f"{page.name}: {link}; there are {anchors}"


@pytest.mark.parametrize("page", [*PAGES, TRAINED], ids=page_name)
def test_files_that_are_named_exist(page):
    """A path is given from the root; a name alone may be that of any file."""
    known, missing = files_of_the_project(), []
    for token in re.findall(r"`([\w./*{},-]+)`", page.read_text()):
        first = token.split("/")[0]
        is_path = token.endswith(SUFFIXES) or (first in TREES and "/" in token)
        if not is_path or first in OF_USERS or token in WRITTEN or any(mark in token for mark in "*{<"):
            continue
        wanted = token.rstrip("/")
        if not any(path == wanted or ("/" not in wanted and path.endswith(f"/{wanted}")) for path in known):
            missing.append(token)
    assert missing == []


def accepts(kind: type, parts: list[str]) -> bool:
    """Whether a class takes a dotted argument; groups of settings are dataclasses."""
    parameters = inspect.signature(kind.__init__).parameters
    if parts[0] not in parameters:
        return False
    if len(parts) == 1:
        return True
    hint = typing.get_type_hints(kind.__init__).get(parts[0])
    groups = [each for each in (hint, *typing.get_args(hint)) if dataclasses.is_dataclass(each)]
    return any(accepts(group, parts[1:]) for group in groups) if groups else True


@pytest.mark.parametrize("page", [*PAGES, TRAINED], ids=page_name)
def test_options_that_are_named_exist(page):
    declared, unknown = declared_options() | {"options"}, []
    text = re.sub(r"^.*(pytest|pip|apt-get|wandb sweep|torchrun|srun).*$", "", page.read_text(), flags=re.MULTILINE)
    for option in sorted(set(re.findall(r"(?<![\w-])--[a-z_]+(?:\.[a-z_]+)*", text))):
        group, *rest = option.removeprefix("--").split(".")
        if group == "trainer" and rest:
            known = accepts(pl.Trainer, rest)
        elif group in MODULES and rest[:1] == ["init_args"] and len(rest) > 1:
            known = any(accepts(kind, rest[1:]) for kind in MODULES[group])
        else:
            known = group in declared
        if not known:
            unknown.append(option)
    assert unknown == []


def test_the_makefile_has_the_targets_that_are_named():
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for page in PAGES:
        assert set(re.findall(r"(?:`|^)make ([\w-]+)", page.read_text(), re.MULTILINE)) <= targets


def blocks_of(page: Path) -> list[str]:
    """Shell blocks, and single commands in the text, that start Python."""
    text = page.read_text()
    blocks = [block for block in re.findall(r"^```sh\n(.*?)^```", text, re.DOTALL | re.MULTILINE) if "python " in block]
    prose = re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE)
    lines = [line for line in re.findall(r"`(python (?:train|evaluate)\.py [^`]+)`", prose) if "NAME" not in line]
    return blocks + lines


@pytest.fixture(scope="module")
def workplace(tmp_path_factory):
    """A folder that looks like the project's, with the files that examples take from their users."""
    from public_files import rosinality_state, write_rosinality

    folder = tmp_path_factory.mktemp("workplace")
    for name in ("lightning_modules", "datamodules", "configs", "docs", "tests", "train.py", "evaluate.py"):
        (folder / name).symlink_to(ROOT / name)
    state = rosinality_state(32, width=640)
    write_rosinality(folder / "550000.pt", state)
    shutil.copy(folder / "550000.pt", folder / "FILE")
    rng = np.random.default_rng(0)
    for name, side in (("photos", 32), ("photographs/test", 32), ("DIR", 64)):
        (folder / name).mkdir(parents=True)
        for index in range(24):
            pixels = rng.integers(0, 256, (side, side, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{index:03d}.png")
    short = ["--trainer.max_epochs=1", "--trainer.limit_train_batches=1", "--data.init_args.name=fashion_sample"]
    train.main(
        ["--config", str(ROOT / "configs/zoo/dcgan.yaml"), f"--run_dir={folder / 'runs/zoo/dcgan/first'}", *short]
    )
    tools = folder / "tools"
    tools.mkdir()
    script = ROOT / "tests" / "helpers" / "shrunken_python.py"
    (tools / "python").write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} {shlex.quote(str(script))} "$@"\n')
    (tools / "python").chmod(0o755)
    return folder


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("page", [*PAGES, TRAINED], ids=page_name)
def test_commands_run(page, workplace):
    """In their order, on less data (`helpers/shrunken_python.py`); `RUN` stands for the newest run."""
    environment = {
        **os.environ,
        "PATH": f"{workplace / 'tools'}:{os.environ['PATH']}",
        "REAL_PYTHON": sys.executable,
        "WANDB_MODE": "disabled",
        "PYTHONPATH": str(ROOT),
        "OMP_NUM_THREADS": "1",
    }
    for block in blocks_of(page):
        block = block.replace("--trainer.accelerator gpu", "")
        for line in block.replace("\\\n", " ").splitlines():
            assert not line.startswith("pip "), "an installation is not run here"
        newest = "$(ls -td runs/attribution/gm_fashion/*/ | head -1)"
        script = block.replace("runs/attribution/gm_fashion/RUN", newest).replace(" RUN/", " runs/zoo/dcgan/first/")
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", script],
            cwd=workplace,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, f"{page.name}:\n{block}\n{done.stdout[-1500:]}\n{done.stderr[-3000:]}"

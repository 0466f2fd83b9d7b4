"""The one entry point of all commands: quick to answer, and right about what is mistyped."""

from __future__ import annotations

import ast
import subprocess
import sys
import tomllib
from importlib import import_module
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import evaluate
from lightning_modules.cli import entry
from lightning_modules.cli.errors import run_command

ROOT = Path(__file__).parents[2]
OPTIONAL = {"transformers"}  # of prompts, which are asked for by name


def test_help_and_a_mistyped_command_load_neither_torch_nor_lightning():
    script = (
        "import sys\nfrom lightning_modules.cli.entry import console, run\nrun(['--help'])\nsys.argv[1:] = ['trian']\n"
        "try:\n    console()\nexcept SystemExit as left:\n    assert left.code == 2\n"
        "assert not {'torch', 'pytorch_lightning', 'numpy'} & set(sys.modules), 'slow'\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert all(f"  {name} " in done.stdout for name in entry.COMMANDS)
    assert "unknown command 'trian': did you mean train" in done.stderr


@pytest.mark.parametrize("name", entry.COMMANDS)
def test_every_command_exists(name):
    module, _, function = entry.COMMANDS[name][0].partition(":")
    assert callable(getattr(import_module(module), function))


@pytest.mark.parametrize(("typed", "hint"), [("generat", "did you mean generate"), ("train", "train.py is what")])
def test_evaluate_says_what_is_meant(typed, hint, capsys):
    with pytest.raises(SystemExit) as left:
        run_command(lambda: evaluate.main([typed]))
    assert left.value.code == 2
    assert f"evaluate.py: unknown command '{typed}': {hint}" in capsys.readouterr().err


def test_commands_of_other_modules_are_reached_and_keep_their_status(tmp_path, capsys):
    with pytest.raises(SystemExit) as left:
        entry.run(["users", "list", str(tmp_path / "none.json")])
    assert left.value.code == 2
    assert "found no registry" in capsys.readouterr().err


def test_the_dependencies_name_everything_that_is_imported():
    """Of `pyproject.toml`, without extras."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    declared = {canonicalize_name(Requirement(line).name) for line in project["dependencies"]}
    providers = packages_distributions()
    imported: dict[str, Path] = {}
    for folder in ("lightning_modules", "datamodules"):
        for file in (ROOT / folder).rglob("*.py"):
            for node in ast.walk(ast.parse(file.read_text())):
                names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
                names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
                imported |= {name.partition(".")[0]: file for name in names}
    outside = set(imported) - set(sys.stdlib_module_names) - {"lightning_modules", "datamodules"} - OPTIONAL
    assert {"torch", "yaml"} <= outside
    missing = {
        f"{name} ({imported[name].relative_to(ROOT)})"
        for name in outside
        if not {canonicalize_name(found) for found in providers.get(name, [])} & declared
    }
    assert missing == set()

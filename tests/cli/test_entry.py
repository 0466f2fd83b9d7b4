"""The one entry point of all commands: quick to answer, and right about what is mistyped."""

from __future__ import annotations

import ast
import os
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
from lightning_modules.cli import entry, options
from lightning_modules.cli.errors import run_command

ROOT = Path(__file__).parents[2]
OPTIONAL = {"transformers", "wandb_workspaces", "onnx"}  # of prompts and saved workspaces, which are asked for by name


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
    assert callable(entry.COMMANDS.load(name))
    assert name in entry.ABOUT


@pytest.mark.parametrize(("typed", "hint"), [("generat", "did you mean generate"), ("train", "train.py is what")])
def test_evaluate_says_what_is_meant(typed, hint, capsys):
    with pytest.raises(SystemExit) as left:
        run_command(lambda: evaluate.main([typed]))
    assert left.value.code == 2
    assert f"evaluate.py: unknown command '{typed}': {hint}" in capsys.readouterr().err


SLOW = ("torch", "pytorch_lightning", "pandas", "matplotlib")  # seconds of processor time each
QUICK = [
    *((f"evaluate.py {name} --help", 0, "usage: ") for name in entry.COMMANDS if name != entry.TRAIN),
    ("train.py --help", 0, "lightning_modules.latent_fingerprint.LatentFingerprint"),
    ("train.py fit --config a.yaml", 2, "type `train.py --config a.yaml`"),
    ("train.py test --ckpt_path last", 2, "type `evaluate.py test --ckpt_path last`"),
    ("train.py --confg x", 2, "unknown key 'confg': did you mean config?"),
    ("train.py --trainer.max_step 3", 2, "unknown key 'trainer.max_step': did you mean trainer.max_steps"),
    ("train.py --config quickstart.yaml --model.init_args.learnin_rate 1", 2, "did you mean learning_rate?"),
    (
        "train.py --model lightning_modules.zoo.DCGAN --model.init_args.learning_rat 1",
        2,
        "'learning_rat': did you mean",
    ),
    ("train.py --config quickstrat.yaml", 2, "did you mean quickstart.yaml"),
    ("train.py --config fingerprint/ldm.yaml --model.init_args.sigma 3", 2, "did you mean key.sigma"),
    ("train.py --config fingerprint/ldm.yaml --model.init_args.decoder_options 3", 2, "did you mean decoder.options?"),
    (
        "train.py --config fingerprint/ldm.yaml --model.init_args.decoder hybrid",
        2,
        "such as --model.init_args.decoder.name",
    ),
    ("evaluate.py test", 2, "--ckpt_path is needed"),
    ("evaluate.py predict --ckpt_path nowhere", 2, "no file nowhere"),
    ("evaluate.py users creat", 2, "did you mean create?"),
    ("evaluate.py compare x --metric x", 2, "did you mean metrics?"),
    ("evaluate.py compare nowhere", 2, "nowhere is no folder"),
    ("evaluate.py fid a --reals b --feature c", 2, "unknown key 'feature': did you mean features?"),
    ("evaluate.py generate --generatr x", 2, "did you mean generator?"),
    ("evaluate.py sweep --config nowhere.yaml", 2, "found no config nowhere.yaml"),
]


@pytest.mark.parametrize(("line", "status", "said"), QUICK, ids=[line for line, _, _ in QUICK])
def test_help_and_mistakes_answer_without_slow_imports(line, status, said):
    environment = {**os.environ, "PYTHONPROFILEIMPORTTIME": "1"}
    command = [sys.executable, *line.split()]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT, env=environment)
    imported = {each.rpartition("|")[2].strip() for each in done.stderr.splitlines() if each.startswith("import time:")}
    printed = [each for each in done.stderr.splitlines() if not each.startswith("import time:")]
    assert done.returncode == status, printed
    assert said in " ".join(" ".join([done.stdout, *printed]).split())
    assert "lightning_modules.cli.entry" in imported or "lightning_modules.cli.options" in imported
    assert imported.isdisjoint(SLOW)


def test_the_lists_of_commands_and_of_classes_fit_on_one_screen_and_name_what_there_is():
    usage = entry._usage("evaluate.py", tuple(name for name in entry.COMMANDS if name != entry.TRAIN)).splitlines()
    assert len(usage) <= 24
    for help_text in ("\n".join(usage), options.short_help("train"), options.short_help("predict")):
        assert max(map(len, help_text.splitlines())) <= 120
    for path in (*options.MODULES, *options.DATA_MODULES):
        module, _, name = path.rpartition(".")
        assert isinstance(getattr(import_module(module), name), type)
        assert options._arguments_of(path)


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

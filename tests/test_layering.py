"""Imports run one way (docs/architecture.md): read from the source, so that a lazy import counts too."""

from __future__ import annotations

import ast
from fnmatch import fnmatch
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
COMMON = "common"  # what every package may import
PURE = (COMMON, "generators", "artifacts", "metrics", "networks", "reporting", "attacks", "fingerprints")
PURE += ("representations",)
LIGHTNING = ("pytorch_lightning", "lightning")
ENTRY = ("train", "evaluate")


def imports_of(file: Path) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: relative import"
            found.add(node.module or "")
    return found


def offenders(folder: Path, forbidden: tuple[str, ...]) -> list[str]:
    files = sorted(folder.rglob("*.py"))
    assert files, f"{folder} holds no Python file"
    return [
        f"{file.relative_to(ROOT)} imports {name}"
        for file in files
        for name in sorted(imports_of(file))
        if any(name == ban or name.startswith(f"{ban}.") for ban in forbidden)
    ]


@pytest.mark.parametrize("package", PURE)
def test_pure_packages_import_no_lightning_no_data_and_no_module(package):
    above = tuple(
        f"lightning_modules.{path.stem}"
        for path in (ROOT / "lightning_modules").iterdir()
        if path.stem not in (*PURE, "__init__", "__pycache__")
    )
    assert offenders(ROOT / "lightning_modules" / package, (*LIGHTNING, *ENTRY, "datamodules", *above)) == []


def test_metrics_artifacts_generators_and_attacks_do_not_know_each_other():
    for package, others in (
        ("metrics", ("artifacts", "generators", "networks", "reporting")),
        ("artifacts", ("metrics", "generators", "networks", "reporting")),
        ("generators", ("metrics", "artifacts", "networks", "reporting")),
        ("attacks", ("metrics", "artifacts", "generators", "networks", "reporting")),
    ):
        banned = tuple(f"lightning_modules.{other}" for other in others)
        assert offenders(ROOT / "lightning_modules" / package, banned) == []


def test_the_common_package_imports_no_other():
    others = [path.stem for path in (ROOT / "lightning_modules").iterdir() if path.stem not in ("__init__", COMMON)]
    banned = ("datamodules", *LIGHTNING, *ENTRY, *(f"lightning_modules.{other}" for other in others))
    assert offenders(ROOT / "lightning_modules" / COMMON, banned) == []


def test_datamodules_import_only_the_common_package_of_lightning_modules():
    found = offenders(ROOT / "datamodules", ("lightning_modules", *ENTRY))
    assert [line for line in found if f" imports lightning_modules.{COMMON}." not in line] == []


def test_nothing_imports_the_other_class_tree_of_lightning():
    for folder in ("lightning_modules", "datamodules", "tests"):
        assert offenders(ROOT / folder, ("lightning",)) == []


def test_entry_points_are_thin():
    for name in ENTRY:
        tree = ast.parse((ROOT / f"{name}.py").read_text())
        assert sum(isinstance(node, ast.ClassDef) for node in ast.walk(tree)) == 0
        assert len((ROOT / f"{name}.py").read_text().splitlines()) < 80


def test_top_level_is_the_owners():
    allowed = {
        "pyproject.toml", "README.md", "lightning_modules", "datamodules", "configs", "train.py", "evaluate.py",
        "tests", "Makefile", "LICENSE", "CHANGELOG.md", "CONTRIBUTING.md", "docs",
    }  # fmt: skip
    ignored = [line.strip("/") for line in (ROOT / ".gitignore").read_text().splitlines() if line and line[0] != "#"]
    names = {path.name for path in ROOT.iterdir() if not path.name.startswith((".", "__"))}
    assert {name for name in names if not any(fnmatch(name, pattern) for pattern in ignored)} <= allowed

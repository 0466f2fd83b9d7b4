"""Imports run one way, without circles (docs/architecture.md), read from the source: a lazy import counts too."""

from __future__ import annotations

import ast
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
LIGHTNING = ("pytorch_lightning", "lightning")
ENTRY = ("train", "evaluate")
LAYERS = (
    ("common",),
    ("generators", "artifacts", "attacks", "metrics", "networks"),
    ("representations", "fingerprints"),
    ("evaluation", "reporting"),
    ("attributor", "latent_fingerprint", "callbacks", "zoo"),
    ("cli",),
)
"""Packages and modules of `lightning_modules`; each may import those of its own layer and of the layers before."""
PURE = [name for layer in LAYERS[:4] for name in layer]
STRANGERS = ("generators", "artifacts", "attacks", "metrics", "networks")
"""Packages of one layer that know nothing of each other."""


@cache
def modules() -> dict[str, Path]:
    """Every module of the project by its dotted name."""
    files = [ROOT / f"{name}.py" for name in ENTRY]
    files += [path for tree in ("lightning_modules", "datamodules") for path in (ROOT / tree).rglob("*.py")]
    return {".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path for path in files}


@cache
def imports_of(file: Path) -> frozenset[str]:
    """Modules that a file imports anywhere in it, as `package.module`; of the project's own also by attribute."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: relative import"
            found.add(node.module or "")
            found.update(name for alias in node.names if (name := f"{node.module}.{alias.name}") in modules())
    return frozenset(found)


def offenders(package: str, forbidden: tuple[str, ...]) -> list[str]:
    """Imports of a package, `lightning_modules.cli` for one, that begin with a forbidden name."""
    inside = [name for name in modules() if name == package or name.startswith(f"{package}.")]
    assert inside, f"there is no {package}"
    return [
        f"{name} imports {imported}"
        for name in inside
        for imported in sorted(imports_of(modules()[name]))
        if any(imported == ban or imported.startswith(f"{ban}.") for ban in forbidden)
    ]


def test_every_package_has_its_layer():
    tops = {name.split(".")[1] for name in modules() if name.startswith("lightning_modules.")}
    assert tops == {name for layer in LAYERS for name in layer}


@pytest.mark.parametrize("package", [name for layer in LAYERS for name in layer])
def test_a_package_imports_its_own_layer_and_those_below(package):
    depth = next(depth for depth, layer in enumerate(LAYERS) if package in layer)
    above = tuple(f"lightning_modules.{name}" for layer in LAYERS[depth + 1 :] for name in layer)
    assert offenders(f"lightning_modules.{package}", (*above, *ENTRY)) == []


@pytest.mark.parametrize("package", PURE)
def test_pure_packages_import_neither_lightning_nor_data(package):
    assert offenders(f"lightning_modules.{package}", (*LIGHTNING, "datamodules")) == []


@pytest.mark.parametrize("package", STRANGERS)
def test_packages_of_the_second_layer_do_not_know_each_other(package):
    others = tuple(f"lightning_modules.{other}" for other in STRANGERS if other != package)
    assert offenders(f"lightning_modules.{package}", others) == []


def test_datamodules_import_only_the_common_package_of_lightning_modules():
    found = offenders("datamodules", ("lightning_modules", *ENTRY))
    assert [line for line in found if " imports lightning_modules.common" not in line] == []


def test_nothing_imports_the_other_class_tree_of_lightning():
    for package in ("lightning_modules", "datamodules"):
        assert offenders(package, ("lightning",)) == []


def test_imports_form_no_circle():
    own = {
        name: {other for other in imports_of(file) if other in modules() and not name.startswith(f"{other}.")} - {name}
        for name, file in modules().items()
    }
    done: set[str] = set()

    def visit(name: str, path: tuple[str, ...]) -> None:
        assert name not in path, " -> ".join((*path[path.index(name) :], name))
        if name not in done:
            for other in sorted(own[name]):
                visit(other, (*path, name))
            done.add(name)

    for name in own:
        visit(name, ())


def test_a_circle_would_be_found(tmp_path, monkeypatch):
    for name, text in (("one", "def f():\n    from two import g"), ("two", "import one")):
        (tmp_path / f"{name}.py").write_text(text)
    files = {name: tmp_path / f"{name}.py" for name in ("one", "two")}
    monkeypatch.setitem(globals(), "modules", lambda: files)
    with pytest.raises(AssertionError, match="one -> two -> one"):
        test_imports_form_no_circle()


def test_entry_points_are_thin():
    for name in ENTRY:
        tree = ast.parse((ROOT / f"{name}.py").read_text())
        assert sum(isinstance(node, ast.ClassDef) for node in ast.walk(tree)) == 0

"""Every word that some parser of the project takes as an option or as a key, read from the source."""

from __future__ import annotations

import ast
from pathlib import Path

from lightning_modules.cli.options import OPTIONS

ROOT = Path(__file__).parents[2]


def syntax_trees() -> list[ast.Module]:
    """The package's modules, and the entry points."""
    files = [file for part in ("lightning_modules", "datamodules") for file in sorted((ROOT / part).rglob("*.py"))]
    return [ast.parse(file.read_text()) for file in [*files, ROOT / "train.py", ROOT / "evaluate.py"]]


def _is_dataclass(node: ast.AST) -> bool:
    return isinstance(node, ast.ClassDef) and any("dataclass" in ast.unparse(each) for each in node.decorator_list)


def declared_options() -> set[str]:
    """Options are declared by `add_argument`, or are parameters of what parsers are made of."""
    known = {"version", "help", "help_all", "config", "print_config", "trainer", "model", "data", "seed_everything"}
    known |= {option.name for option in OPTIONS}
    for tree in syntax_trees():
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef):
                known |= {argument.arg for argument in (*node.args.args, *node.args.kwonlyargs)}
            elif _is_dataclass(node):
                known |= {each.target.id for each in node.body if isinstance(each, ast.AnnAssign)}
            elif isinstance(node, ast.Call) and getattr(node.func, "attr", "") == "add_argument":
                texts = [argument.value for argument in node.args if isinstance(argument, ast.Constant)]
                known |= {text.lstrip("-") for text in texts if isinstance(text, str)}
    return known

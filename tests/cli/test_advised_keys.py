"""A setting that a message advises exists, under that name, in the command that prints the message."""

from __future__ import annotations

import ast
import inspect
import re

import pytest
from declared_options import declared_options, syntax_trees

import datamodules
from datamodules.images.problems import DISTANCES, GM_DATA, PREDICTION, REALS, REALS_OF_OTHERS, Kind
from lightning_modules.cli import image_commands
from lightning_modules.cli.framework import FrameworkCLI
from lightning_modules.cli.generate.command import write_data_set
from lightning_modules.cli.parser import SuggestingParser

OF_FILES = [Kind.UNREADABLE, Kind.UNSUPPORTED, Kind.TRANSPARENT, Kind.TOO_LARGE, Kind.CROP_TOO_LARGE, Kind.MIXED_SIZES]
OPTION = re.compile(r"(?<![\w(-])--([A-Za-z][\w.-]*)(?!:)")  # var(--ink) is of a page


def options_of_predict() -> set[str]:
    parser = SuggestingParser()
    cli = object.__new__(FrameworkCLI)
    cli.purpose = "predict"
    cli.add_arguments_to_parser(parser)
    return {action.dest for action in parser._actions}


def options_of(command, capsys) -> set[str]:
    with pytest.raises(SystemExit):
        command(["--help"])
    return set(OPTION.findall(capsys.readouterr().out))


def arguments_of(callable_) -> set[str]:
    return set(inspect.signature(callable_).parameters)


def test_settings_of_every_problem_exist_where_it_is_printed(capsys):
    """Each reader's advice, as it is spelled, against what its commands take."""
    readers = {
        PREDICTION: [options_of_predict(), arguments_of(datamodules.ImageFilesDataModule)],
        DISTANCES: [options_of(image_commands.fid, capsys)],
        REALS: [arguments_of(datamodules.RealImagesDataModule), options_of(image_commands.sheets, capsys)],
        REALS_OF_OTHERS: [arguments_of(datamodules.SampleNumbersDataModule), arguments_of(write_data_set)],
        GM_DATA: [arguments_of(datamodules.GMDataModule)],
    }
    named = 0
    for reader, commands in readers.items():
        kinds = {GM_DATA: [kind for kind in Kind if kind is not Kind.WRONG_SIZE]}.get(reader, OF_FILES)
        kinds = [*kinds, Kind.WRONG_SIZE] if reader is PREDICTION else kinds
        for kind in kinds:
            advice = reader.spell(kind.expected) + reader.spell(kind.fix)
            assert "{" not in advice
            assert len(re.findall("`", advice)) == 2 * len(kind.settings), f"{kind}: a setting that is not in braces"
            for setting in re.findall(r"`-*(\w+)(?:: \w+)?`", advice):
                named += 1
                for taken in commands:
                    assert setting in taken, f"{reader} advises {setting} for {kind}; taken are {sorted(taken)}"
    assert named > 20
    for setting in re.findall(r"--(\w+)", PREDICTION.outcome):
        assert setting in options_of_predict()


def literals(tree: ast.AST) -> list[str]:
    """Every text of a module that is no docstring, with the pieces of f-strings."""
    docstrings = {
        id(node.body[0].value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef)
        and node.body
        and isinstance(node.body[0], ast.Expr)
    }
    return [
        node.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docstrings
    ]


def test_every_option_that_any_message_names_is_one_that_some_command_takes():
    known = declared_options() | {"dest"}  # of the converter that ships with stylegan2-ada-pytorch
    known |= {"KEY", "init_args", "options", "porcelain"}  # of the short help, of generators, and of git
    unknown = {
        option
        for tree in syntax_trees()
        for text in literals(tree)
        for option in (found.rstrip(".-") for found in OPTION.findall(text))
        if option and option.rpartition(".")[2] not in known and option.partition(".")[0] != "trainer"
    }
    assert unknown == set()

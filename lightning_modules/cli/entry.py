"""Every command by name. What a command needs is imported when it runs: help and typing mistakes answer at once."""

from __future__ import annotations

import sys
from importlib import import_module
from importlib.metadata import version

from lightning_modules.cli.errors import run_command
from lightning_modules.common.shipped import CONSOLE, program
from lightning_modules.common.tables import did_you_mean

TRAIN = "train"
COMMANDS = {
    TRAIN: (
        "lightning_modules.cli.commands:train",
        "fit what a config names: an attributor, a fingerprint, a generator",
    ),
    "test": ("lightning_modules.cli.commands:test", "numbers, rows, figures and report of a trained run"),
    "predict": ("lightning_modules.cli.commands:predict", "the source of each image, or the user whose key it carries"),
    "generate": (
        "lightning_modules.cli.commands:generate",
        "images of a generator, with a user's key, or a GM data set",
    ),
    "compare": ("lightning_modules.cli.commands:compare", "runs in one table, mean and spread over seeds"),
    "sweep": ("lightning_modules.cli.commands:sweep", "a W&B sweep file, run here: table and figure"),
    "users": (
        "lightning_modules.fingerprints.users.__main__:main",
        "create, import, list, merge, export users and keys",
    ),
    "convert": ("lightning_modules.generators.checkpoints.convert:main", "a checkpoint to one safetensors file"),
    "export": ("lightning_modules.zoo.export:main", "a trained small generator to a bundled source"),
    "export_classifier": ("lightning_modules.zoo.fashion_classifier:main", "a trained classifier to its weights' file"),
    "fid": ("lightning_modules.cli.image_folders:fid", "Frechet distance of each source to held-out reals"),
    "sheets": ("lightning_modules.cli.image_folders:sheets", "sheets of images of each source"),
    "codecs": ("lightning_modules.cli.image_folders:codecs", "the differentiable JPEG beside real codecs"),
}
"""What runs each command, as `module:function`, and what it does."""


def run(args: list[str] | None = None, commands: tuple[str, ...] = tuple(COMMANDS)) -> object:
    """Run one command; returns what it computed.

    Args:
        args: Command line without the program name; None for the process's own.
        commands: Those that may be asked for.

    Raises:
        SystemExit: No such command.
    """
    args = sys.argv[1:] if args is None else args
    started = program("test").rpartition(" ")[0]
    if not args or args[0] in ("-h", "--help"):
        print(_usage(started, commands))
        return None
    if args[0] == "--version":
        print(version(CONSOLE))
        return None
    if args[0] not in commands:
        hint = did_you_mean(args[0], commands) or f"expected one of {', '.join(commands)}"
        if args[0] == TRAIN:
            hint = "train.py is what trains"
        raise SystemExit(f"{started}: unknown command {args[0]!r}: {hint}")
    module, _, function = COMMANDS[args[0]][0].partition(":")
    return getattr(import_module(module), function)(args[1:])


def console() -> None:
    """The installed command."""
    run_command(run)


def _usage(started: str, commands: tuple[str, ...]) -> str:
    width = max(map(len, commands)) + 2
    lines = [f"  {name:{width}}{COMMANDS[name][1]}" for name in commands]
    return "\n".join(
        [
            f"usage: {started} COMMAND ...",
            "",
            "Which generator made an image, and whose key does it carry?",
            "",
            *lines,
            "",
            f"{started} COMMAND --help lists the options of a command. --config takes a path, or the name of a config",
            "that ships: quickstart.yaml, attribution/gm_fashion.yaml. The last line printed says where results are.",
        ]
    )

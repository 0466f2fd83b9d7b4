"""Every command by name. What a command needs is imported when it runs: help and typing mistakes answer at once."""

from __future__ import annotations

import sys
from importlib.metadata import version

from lightning_modules.cli.errors import run_command
from lightning_modules.cli.options import check_run
from lightning_modules.common.shipped import CONSOLE, program
from lightning_modules.common.tables import Table, did_you_mean

TRAIN = "train"
COMMANDS = Table(
    "command",
    {
        TRAIN: "lightning_modules.cli.run_commands:train",
        "test": "lightning_modules.cli.run_commands:test",
        "predict": "lightning_modules.cli.run_commands:predict",
        "generate": "lightning_modules.cli.generate.command:generate",
        "compare": "lightning_modules.cli.compare:compare",
        "report": "lightning_modules.cli.report:report",
        "sweep": "lightning_modules.cli.sweep.command:sweep",
        "users": "lightning_modules.cli.users:users",
        "convert": "lightning_modules.cli.exports:convert",
        "export": "lightning_modules.cli.exports:export",
        "export_classifier": "lightning_modules.cli.exports:export_classifier",
        "index": "lightning_modules.cli.index:index",
        "fid": "lightning_modules.cli.image_commands:fid",
        "sheets": "lightning_modules.cli.image_commands:sheets",
        "codecs": "lightning_modules.cli.image_commands:codecs",
    },
)
"""The function that runs each command; it takes the arguments behind the command's name."""
RUNS = (TRAIN, "test", "predict")
"""Those whose options are Lightning's."""
ABOUT = {
    TRAIN: "fit what a config names: an attributor, a fingerprint, a generator",
    "test": "numbers, rows, figures and report of a trained run",
    "predict": "the source of each image, or the user whose key it carries",
    "generate": "images of a generator, with a user's key, or a GM data set",
    "compare": "runs in one table, mean and spread over seeds",
    "report": "numbers, rows, figures and report of a test again, from its folder alone",
    "sweep": "a W&B sweep file, run here: table and figure",
    "users": "create, import, list, merge, export users and keys",
    "convert": "a checkpoint to one safetensors file",
    "export": "a trained small generator to a bundled source",
    "export_classifier": "a trained classifier to its weights' file",
    "index": "images of a GM data set as an index file, with the garments that they show",
    "fid": "Frechet distance of each source to held-out reals",
    "sheets": "sheets of images of each source",
    "codecs": "the differentiable JPEG beside real codecs",
}


def run(args: list[str] | None = None, commands: tuple[str, ...] = tuple(COMMANDS)) -> object:
    """Run one of the commands that may be asked for; returns what it computed.

    Raises:
        SystemExit: no such command.
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
    command, *rest = args
    if command in RUNS:
        checked = check_run(command, rest)
        if checked is None:
            return None
        rest = checked
    return COMMANDS.load(command)(rest)


def console() -> None:
    """The installed command."""
    run_command(run)


def _usage(started: str, commands: tuple[str, ...]) -> str:
    width = max(map(len, commands)) + 2
    lines = [f"  {name:{width}}{ABOUT[name]}" for name in commands]
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

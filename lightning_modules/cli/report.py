"""`evaluate.py report`: what a test leaves, made again from its finished blocks."""

from __future__ import annotations

from pathlib import Path

from lightning_modules.cli.parser import CommandParser
from lightning_modules.common.files import check_folder
from lightning_modules.common.shipped import program


def report(args: list[str]) -> Path:
    """Make numbers, rows, figures and page of a test again from its folder alone: the same bytes each time."""
    parser = CommandParser("report", report.__doc__)
    parser.add_argument("run", help="folder of a test, or of a training that ended with one")
    folder = Path(parser.parse_args(args).run)
    check_folder(folder, "RUN")
    from lightning_modules.evaluation.blocks import EvaluationError
    from lightning_modules.reporting.evaluation_report import write_report

    try:
        write_report(folder)
    except EvaluationError as error:
        raise SystemExit(f"{program('report')}: {error}") from error
    print(folder / "report.html")
    return folder

"""`evaluate.py compare`: several runs in one table."""

from __future__ import annotations

from pathlib import Path

from lightning_modules.cli.parser import CommandParser
from lightning_modules.common.files import check_folder, write_text
from lightning_modules.common.shipped import program
from lightning_modules.reporting.compare import Comparison, compare_runs


def compare(args: list[str]) -> Comparison:
    """Put several runs in one table: mean and spread over the seeds of runs that differ in nothing else."""
    parser = CommandParser("compare", compare.__doc__)
    parser.add_argument("runs", nargs="+", help="run folders")
    parser.add_argument("--metrics", nargs="*", help="shell patterns, such as 'test/control/*'; default: the main ones")
    parser.add_argument("--out", help="folder for comparison.csv, .md and .html; default: print the table alone")
    asked = parser.parse_args(args)
    if asked.out is not None:
        check_folder(Path(asked.out), "--out")
    try:
        comparison = compare_runs(asked.runs)
        table = comparison.to_markdown(asked.metrics)
    except ValueError as error:
        raise SystemExit(f"{program('compare')}: {error}") from error
    print(table)
    if asked.out is not None:
        out = Path(asked.out)
        write_text(out / "comparison.md", table)
        write_text(out / "comparison.csv", comparison.to_csv())
        comparison.write_html(out / "comparison.html", asked.metrics)
        print(out)
    return comparison

"""`evaluate.py compare`: several runs side by side, in the terminal, as files, as a page, as a workspace of W&B."""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

from lightning_modules.cli.parser import CommandParser
from lightning_modules.common.files import check_folder, write_text
from lightning_modules.common.shipped import program
from lightning_modules.common.tables import check_name
from lightning_modules.reporting.compare import Comparison, compare_runs
from lightning_modules.reporting.result_tables.registry import ABOUT, TABLES
from lightning_modules.reporting.result_tables.result_table import ResultTable, TableOptions
from lightning_modules.reporting.runs import read_runs
from lightning_modules.reporting.wandb_workspace import build_workspace, check_workspace, save_workspace

DESCRIPTION = """Put runs side by side: mean and spread over the seeds of runs that differ in nothing else,
robustness curves, and differences from the experiment named first, each with its interval. Or one of the tables of a
paper (--table), of attributors.

Runs that differ in devices, strategy or workers alone count once. Unfinished evaluations are named and left aside."""


def compare(args: list[str]) -> Comparison | ResultTable:
    """Compare runs in the terminal and, where asked for, in files, a page and a workspace of W&B.

    Raises:
        SystemExit: some folders are no runs, a place cannot be written to, or W&B does not take the workspace.
    """
    parser = CommandParser("compare", DESCRIPTION)
    parser.add_argument("runs", nargs="+", help="run folders")
    parser.add_argument("--metrics", nargs="*", help="shell patterns, such as 'test/control/*'; default: the main ones")
    parser.add_argument(
        "--out",
        help="folder for comparison.html (curves, tables that sort and filter), comparison.md and .csv, conditions.csv "
        "(every strength) and differences.csv; of a --table for table.html, .md, .csv; default: print the table alone",
    )
    tables = "; ".join(f"{name}: {about.replace('%', '%%')}" for name, about in ABOUT.items())
    parser.add_argument("--table", metavar="NAME", help=f"one of: {tables}")
    parser.add_argument("--sources", nargs=2, metavar="SOURCE", help="of two_seeds: the pair; default: by their names")
    parser.add_argument(
        "--designs",
        metavar="FILE",
        help="of clusters: YAML of design choices by source; default: those that sources.yaml and designs.yaml of the "
        "data sets said when the runs were tested",
    )
    parser.add_argument(
        "--wandb_workspace",
        metavar="ENTITY/PROJECT",
        help="save a workspace of W&B there that shows the robustness curves; needs the extra 'workspace' and a login",
    )
    asked = parser.parse_args(args)
    if asked.out is not None:
        check_folder(Path(asked.out), "--out")
    if asked.table is not None:
        return _compare_table(asked)
    try:
        place = None if asked.wandb_workspace is None else check_workspace(asked.wandb_workspace)
        comparison = compare_runs(asked.runs)
        table = comparison.to_markdown(asked.metrics)
        workspace = None if place is None else build_workspace(*place, comparison.families)
    except ValueError as error:
        raise SystemExit(f"{program('compare')}: {error}") from error
    print(table)
    if asked.out is not None:
        out = Path(asked.out)
        for name, content in comparison.files(asked.metrics).items():
            write_text(out / name, content)
        comparison.write_html(out / "comparison.html", asked.metrics)
        print(out)
    if workspace is not None:
        try:
            print(save_workspace(workspace))
        except ValueError as error:
            raise SystemExit(f"{program('compare')}: {error}") from error
    return comparison


def _compare_table(asked: argparse.Namespace) -> ResultTable:
    try:
        check_name("table", asked.table, TABLES)
        for option, owner in {"sources": "two_seeds", "designs": "clusters"}.items():
            if getattr(asked, option) is not None and asked.table != owner:
                raise ValueError(f"--{option} is of the table {owner}, found --table {asked.table}; leave it out")
        if asked.metrics is not None or asked.wandb_workspace is not None:
            raise ValueError("--table chooses what it shows; leave out --metrics and --wandb_workspace")
        pair = None if asked.sources is None else (asked.sources[0], asked.sources[1])
        options = TableOptions(pair, None if asked.designs is None else Path(asked.designs))
        runs, aside = read_runs([Path(folder) for folder in asked.runs])
        table: ResultTable = TABLES.load(asked.table)(runs, options)
    except (ValueError, OSError) as error:
        raise SystemExit(f"{program('compare')}: {error}") from error
    table = replace(table, notes=[*table.notes, *map(str, aside)])
    print(table.to_markdown(), end="")
    if asked.out is not None:
        out = Path(asked.out)
        write_text(out / "table.md", table.to_markdown())
        write_text(out / "table.csv", table.to_csv())
        table.write_html(out / "table.html")
        print(out)
    return table

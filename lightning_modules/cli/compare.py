"""`evaluate.py compare`: several runs side by side, in the terminal, as files, as a page, as a workspace of W&B."""

from __future__ import annotations

from pathlib import Path

from lightning_modules.cli.parser import CommandParser
from lightning_modules.common.files import check_folder, write_text
from lightning_modules.common.shipped import program
from lightning_modules.reporting.compare import Comparison, compare_runs
from lightning_modules.reporting.wandb_workspace import build_workspace, check_workspace, save_workspace

DESCRIPTION = """Put runs side by side: mean and spread over the seeds of runs that differ in nothing else,
robustness curves, and differences from the experiment named first, each with its interval.

Runs that differ in devices, strategy or workers alone count once. Unfinished evaluations are named and left aside."""


def compare(args: list[str]) -> Comparison:
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
        "(every strength) and differences.csv; default: print the table alone",
    )
    parser.add_argument(
        "--wandb_workspace",
        metavar="ENTITY/PROJECT",
        help="save a workspace of W&B there that shows the robustness curves; needs the extra 'workspace' and a login",
    )
    asked = parser.parse_args(args)
    if asked.out is not None:
        check_folder(Path(asked.out), "--out")
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

"""`evaluate.py sweep`: the points of a W&B sweep file, run here without a server, and their results side by side."""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lightning_modules.cli.parser import CommandParser
from lightning_modules.cli.stopping import THIS
from lightning_modules.cli.sweep.file import Sweep, SweepError, read_sweep
from lightning_modules.cli.sweep.points import Point, command_of, program_arguments, program_words, sweep_points
from lightning_modules.cli.sweep.runs import GRACE_SECONDS, PointRun, run_points
from lightning_modules.common.files import check_folder, write_bytes, write_text
from lightning_modules.common.shipped import find_config, program
from lightning_modules.reporting import sweep_table
from lightning_modules.reporting.run_files import read_metrics

PROG = program("sweep")
DESCRIPTION = """Run every point of a W&B sweep file here, each in its own process and run folder below --out.

A second call skips what is finished, runs what failed or was stopped, and writes the tables again. Options that are
not listed here go to every point's program, after the file's own: --trainer.accelerator=gpu."""
TRAIN = Path(__file__).resolve().parents[3] / "train.py"


def sweep(args: list[str]) -> Path:
    """Run a sweep; returns its folder: `sweep.csv`, `sweep.md`, a folder a point, and `trade_off.png` where one can be.

    Raises:
        SystemExit: the file or the request is wrong (nothing has run), or some points failed (the others are done).
    """
    asked, further = _parse(args)
    try:
        file = read_sweep(Path(find_config(asked.config)))
        points = sweep_points(file)
        if asked.processes < 1:
            raise SweepError(f"found --processes {asked.processes}, expected at least 1")
        commands = [[*command_of(file, point), *further] for point in points]
        if program_words(file) == (file.program,) and not Path(file.program).is_file():
            raise SweepError(f"{file.path}: found no program {file.program} in {Path.cwd()}; run from where it lies")
    except SweepError as error:
        raise SystemExit(f"{PROG}: {error}") from error
    own = _check_arguments(file, points, commands)
    out = Path(asked.out or Path("runs") / "sweeps" / file.path.stem)
    if asked.dry_run:
        for point, command in zip(points, commands, strict=True):
            print(f"{point.label}: {' '.join(command)}")
        return out
    runs = [
        PointRun(point.label, (out / point.folder).resolve(), program_words(file)[-1], command)
        for point, command in zip(points, commands, strict=True)
    ]
    check_folder(out, "--out")
    THIS.grace = GRACE_SECONDS + 5  # for the points, which are asked to end first
    with _alone(out) as lock:
        states = run_points(runs, asked.processes, lock)
        results = [_result(point, out, states[point.label], point.settings == own) for point in points]
        write_results(out, results, file)
    print(out)
    failed = [result.label for result in results if not result.metrics]
    if failed:
        raise SystemExit(f"{PROG}: {len(failed)} of {len(points)} points failed: {'; '.join(failed)}")
    return out


def write_results(out: Path, results: list[sweep_table.SweepPoint], file: Sweep) -> None:
    """Write the tables, and the figure where a point has both an accuracy and an FID; print the readable table."""
    table = sweep_table.sweep_markdown(results, f"Sweep {file.path.stem}", file.metric)
    write_text(out / "sweep.csv", sweep_table.sweep_csv(results))
    write_text(out / "sweep.md", table)
    print(table)
    drawn, along = sweep_table.trade_off_points(results, file.metric)
    figure = out / "trade_off.png"
    if drawn:
        from lightning_modules.reporting.figures.style import to_png
        from lightning_modules.reporting.figures.trade_off import trade_off_figure

        name = sweep_table.heading(file.metric or sweep_table.CLEAN)
        counts = " / ".join(f"{count:,}" for count in sorted({point.quality.n for point in drawn}))
        quality = f"FID of marked to unmarked images, n = {counts}"  # the distance depends on n
        write_bytes(figure, to_png(trade_off_figure(drawn, quality_name=quality, accuracy_name=name, order_name=along)))
    else:
        figure.unlink(missing_ok=True)  # of an earlier call, with other points
        print("no trade_off.png: no point has both the sweep's metric and test/quality/fid_own")


def _parse(args: list[str]) -> tuple[argparse.Namespace, list[str]]:
    parser = CommandParser("sweep", DESCRIPTION)
    parser.add_argument("-c", "--config", required=True, help="a W&B sweep file, such as configs/sweeps/bits.yaml")
    parser.add_argument("--out", help="folder of the sweep; default: runs/sweeps/NAME OF THE FILE")
    parser.add_argument("--processes", type=int, default=1, help="points that run at the same time (default: 1)")
    parser.add_argument("--dry_run", action="store_true", help="check everything, print the commands, run nothing")
    return parser.parse_known_args(args)


def _settings(arguments: list[str]) -> Any:
    """What train.py would be told, by its parser; nothing is built."""
    from lightning_modules.cli.framework import FrameworkCLI

    class Parsed(FrameworkCLI):
        def before_instantiate_classes(self) -> None:
            pass

        def instantiate_classes(self) -> None:
            pass

        def _set_seed(self) -> None:
            pass

    return Parsed(arguments, purpose="sweep").config


def _check_arguments(file: Sweep, points: list[Point], commands: list[list[str]]) -> dict[str, Any] | None:
    """Let train.py's parser read every point's arguments, so that a wrong name ends the sweep before it starts.

    Returns the settings that the config has by itself; None where no point can have them: another program, a name that
    the config lacks, or a parameter that the sweep fixes at another value.
    """
    if program_words(file) == (file.program,) and Path(file.program).resolve() != TRAIN:
        return None
    for command in commands:
        _settings(program_arguments(file, command))
    bare = [word for word in program_arguments(file, commands[0]) if word not in points[0].arguments]
    try:
        with contextlib.redirect_stderr(io.StringIO()):
            config = _settings(bare)
    except SystemExit:
        return None  # the parameters give what a run cannot be without, such as its config
    found = {path: config.get(".".join(path)) for path in file.parameters}
    fixed = {path: entry.values[0] for path, entry in file.parameters.items() if entry.fixed}
    if None in found.values() or any(found[path] != value for path, value in fixed.items()):
        return None
    return {name: found[path] for path, name in file.varying().items()}


def _result(point: Point, out: Path, state: str, mark: bool) -> sweep_table.SweepPoint:
    metrics = read_metrics(out / point.folder) if state == "finished" else {}
    return sweep_table.SweepPoint(point.label, point.settings, state, point.folder, metrics, mark)


@contextlib.contextmanager
def _alone(out: Path) -> Iterator[int]:
    """Hold the sweep's folder, since two calls at once would write into the same run folders; yields the descriptor.

    A point that has the descriptor too keeps the folder held when this process is killed.
    """
    out.mkdir(parents=True, exist_ok=True)
    with (out / ".lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise SystemExit(
                f"{PROG}: {out} is in use by another sweep or by its last points; wait for it, or choose another --out"
            ) from None
        yield lock.fileno()

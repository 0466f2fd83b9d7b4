"""Runs of a sweep's points: each one a process with a run folder and a log; what is finished is not run again."""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import json
import os
import signal
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lightning_modules.common.shipped import find_config
from lightning_modules.reporting.run_files import METRICS_FILE, read_metrics, write_json

LOG, RECORD = "log.txt", "point.json"
POLL_SECONDS = 0.2
GRACE_SECONDS = 10.0  # for a point to end by itself, as Lightning and W&B do in a second or two


@dataclass(frozen=True)
class PointRun:
    """A point to run."""

    label: str  # unique within the sweep
    folder: Path  # absolute; the program is given it as `--run_dir`
    program: str  # the script, or the last word that names the program
    command: list[str]  # all words, the script among them

    def record(self) -> dict[str, Any]:
        """What decides whether an earlier run was the same: program, arguments, content of the configs they name."""
        arguments = self.command[self.command.index(self.program) + 1 :]
        named = [word.partition("=")[2] for word in arguments if word.startswith(("--config=", "-c="))]
        named += [after for word, after in itertools.pairwise(arguments) if word in ("--config", "-c")]
        return {
            "program": self.program,
            "arguments": arguments,
            "configs": {name: _content_hash(name) for name in named},
        }

    def is_finished(self) -> bool:
        """Whether the same run ended well and left its metrics."""
        try:
            found = json.loads((self.folder / RECORD).read_text(encoding="utf-8"))
            read_metrics(self.folder)
        except (OSError, ValueError):
            return False
        return bool(found == {**self.record(), "exit_status": 0})


@dataclass
class _Running:
    run: PointRun
    process: subprocess.Popen[bytes]
    started: float


def run_points(runs: list[PointRun], processes: int, lock: int) -> dict[str, str]:
    """Run what is not finished, `processes` at a time; a point that fails does not stop the others.

    The cores are divided among the points that run unless `OMP_NUM_THREADS` is set. Each of them holds the file
    descriptor `lock` open. An interrupt ends them. Returns `finished`, or what went wrong, by label.
    """
    states = {run.label: "finished" for run in runs if run.is_finished()}
    waiting = [run for run in runs if run.label not in states]
    if states:
        print(f"{len(states)} of {len(runs)} points are finished already", flush=True)
    environment = dict(os.environ)
    environment.setdefault("OMP_NUM_THREADS", str(max(1, _cores() // processes)))
    running: list[_Running] = []
    try:
        while waiting or running:
            while waiting and len(running) < processes:
                running.append(_start(waiting.pop(0), environment, lock))
            time.sleep(POLL_SECONDS)
            for each in [each for each in running if each.process.poll() is not None]:
                running.remove(each)
                state = states[each.run.label] = _ended(each)
                seconds = time.monotonic() - each.started
                print(f"[{len(states)}/{len(runs)}] {each.run.label}: {state}, {seconds:.0f} s", flush=True)
    finally:
        _stop([each.process for each in running])
    return states


def _start(run: PointRun, environment: dict[str, str], lock: int) -> _Running:
    if run.folder.exists():
        _set_aside(run.folder)
    run.folder.mkdir(parents=True)
    write_json(run.folder / RECORD, run.record())
    with (run.folder / LOG).open("wb") as log:
        process = subprocess.Popen(
            [*run.command, f"--run_dir={run.folder}"],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            env=environment,
            start_new_session=True,  # an interrupt at the terminal is ours to pass on
            pass_fds=(lock,),  # where we are killed, the folder stays in use until the point has ended
        )
    return _Running(run, process, time.monotonic())


def _set_aside(folder: Path) -> None:
    """Rename what a failed, stopped or different run left: its log may still be wanted, its files never mixed."""
    earlier = next(
        place
        for number in itertools.count(1)
        if not (place := folder.with_name(f"{folder.name}.earlier-{number}")).exists()
    )
    folder.rename(earlier)


def _ended(each: _Running) -> str:
    """What became of a process; kept in the folder, so that a second call knows."""
    run, status = each.run, each.process.returncode
    write_json(run.folder / RECORD, {**run.record(), "exit_status": status})
    if status != 0:
        lines = (run.folder / LOG).read_text(encoding="utf-8", errors="replace").strip().splitlines()
        said = f": {lines[-1].strip()}" if lines else ""
        return f"failed with status {status}, see {run.folder.name}/{LOG}{said}"
    try:
        read_metrics(run.folder)
    except FileNotFoundError:
        return (
            f"failed: no {METRICS_FILE} in {run.folder.name}; the program has to evaluate and write it into --run_dir"
        )
    except ValueError as error:
        return f"failed: {error}"
    return "finished"


def _stop(processes: list[subprocess.Popen[bytes]]) -> None:
    """End processes and whatever they started; a second Ctrl-C does not leave some of them behind."""
    if not processes:
        return
    before = {number: signal.signal(number, signal.SIG_IGN) for number in (signal.SIGINT, signal.SIGTERM)}
    print(f"ending {len(processes)} running points, up to {GRACE_SECONDS:.0f} s", flush=True)
    _signal(processes, signal.SIGTERM)
    deadline = time.monotonic() + GRACE_SECONDS
    while any(process.poll() is None for process in processes) and time.monotonic() < deadline:
        time.sleep(0.05)
    _signal(processes, signal.SIGKILL)
    for process in processes:
        process.wait()
    for number, handler in before.items():
        signal.signal(number, handler)


def _signal(processes: list[subprocess.Popen[bytes]], number: int) -> None:
    for process in processes:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, number)


def _cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _content_hash(config: str) -> str:
    try:
        return hashlib.sha256(Path(find_config(config)).read_bytes()).hexdigest()
    except OSError:
        return "absent"  # the program says so itself, in its log

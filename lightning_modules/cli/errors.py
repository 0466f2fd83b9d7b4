"""How a command ends before its time: one message, once over all processes of a run, and an exit status.

Mistakes of input, and places that cannot be written to, end in a line and status 2. A signal ends a command with 130
(Ctrl-C) or 143 (SIGTERM) and a line that says how to go on, a dead process of the run with 1. Any other error keeps its
traceback.
"""

from __future__ import annotations

import io
import re
import sys
import traceback
from collections.abc import Callable
from pathlib import Path

from lightning_modules.cli.processes import rank, speak
from lightning_modules.cli.quiet import tell_warnings_once
from lightning_modules.cli.stopping import THIS, Stopped, obey_signals
from lightning_modules.common.files import describe_place_error
from lightning_modules.common.lifeline import Ending

INPUT_ERRORS = (
    ("datamodules.images.problems", "GMDataError"),
    ("datamodules.images.image_io", "ImageFileError"),
    ("lightning_modules.artifacts.manifold_files", "ManifoldError"),
    ("lightning_modules.fingerprints.fingerprint", "FingerprintError"),
)
"""Classes of errors that are always mistakes of input, by module: one that is not loaded has raised nothing."""
ROOT = Path(__file__).parents[2]
OURS = tuple(str(ROOT / package) for package in ("lightning_modules", "datamodules"))
_MISFIT = re.compile(r"Error\(s\) in loading state_dict for (\w+):")
_DEAD = re.compile(r"process (\d+) terminated with (?:signal (\w+)|exit code (\d+))")


def run_command(main: Callable[[], object]) -> None:
    """Run an entry point; where it ends before its time, tell why and leave with a status that says so."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # as standard error: a path may be no text
    with obey_signals(), tell_warnings_once():
        try:
            main()
        except BaseException as error:
            THIS.raised = True  # a signal finds nothing more to stop
            ending = _ending(error)
            if ending is None:
                THIS.lifeline.close()
                raise
            if THIS.lifeline.active:
                THIS.lifeline.report(ending)
            THIS.end_started()
            if ending.kind == "error":
                raise
            _tell(ending)
            raise SystemExit(ending.status) from None
        THIS.lifeline.close()


def _ending(error: BaseException) -> Ending | None:
    """Why the run ends; None where it ends as it should, after `--help` for one."""
    if THIS.signal is not None or isinstance(error, Stopped | KeyboardInterrupt):
        return THIS.stop()
    if isinstance(error, SystemExit):
        if isinstance(error.code, str):
            return Ending("mistake", error.code, 2)
        return Ending("mistake", "", int(error.code)) if error.code else None
    if (message := mistake(error)) is not None:
        return Ending("mistake", f"error: {message}", 2)
    if (death := _death_of_worker(error)) is not None:
        return death
    return Ending("error", "".join(traceback.format_exception(error)).rstrip(), 1)


def _tell(ending: Ending) -> None:
    if ending.kind in ("stop", "died"):
        if ending.message and (rank() == 0 or ending.kind == "died"):  # a signal reaches all processes of a run
            sys.stderr.write(f"{ending.message}\n")
    elif ending.message:
        speak(ending.message)


def _death_of_worker(error: BaseException) -> Ending | None:
    """The death of a process that a strategy had forked, in the words of torch."""
    if type(error).__name__ != "ProcessExitedException" or (found := _DEAD.search(str(error))) is None:
        return None
    return Ending.death(int(found[1]), THIS.size)


def mistake(error: BaseException) -> str | None:
    """The message of a mistake of input; None for any other error, whose traceback is wanted.

    Such are errors of the classes for it, a place that cannot be written to, a checkpoint of other networks, and a
    ValueError that a statement of this project raises, also where a library has wrapped it, as jsonargparse does with
    those of constructors.
    """
    loaded = [getattr(sys.modules[module], name) for module, name in INPUT_ERRORS if module in sys.modules]
    kinds = (*loaded, FileNotFoundError)
    each: BaseException | None = error
    while each is not None:
        if isinstance(each, kinds) or (isinstance(each, ValueError) and _is_raised_by_us(each)):
            return str(each)
        if (place := describe_place_error(each)) is not None:
            return place
        if isinstance(each, RuntimeError) and (found := _MISFIT.match(str(each))) is not None:
            return _misfit(found[1], str(each))
        each = each.__cause__
    return None


def _misfit(name: str, message: str) -> str:
    """What torch tells in a line for each tensor."""
    lines = [line.strip() for line in message.splitlines()[1:] if line.strip()]
    told = "; ".join(line if len(line) < 160 else f"{line[:150]} ..." for line in lines[:2])
    more = f" and {len(lines) - 2} lines more" if len(lines) > 2 else ""
    return (
        f"found a checkpoint whose tensors do not fit the module {name} ({told}{more}), expected one that was trained "
        "with the same config; leave out --config and what changes the module, or name another checkpoint"
    )


def _is_raised_by_us(error: BaseException) -> bool:
    frames = traceback.extract_tb(error.__traceback__)
    return bool(frames) and frames[-1].filename.startswith(OURS) and (frames[-1].line or "").startswith("raise ")

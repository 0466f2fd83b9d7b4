"""Mistakes of input, and places that cannot be written to, end in one message and status 2, not in a traceback."""

from __future__ import annotations

import io
import sys
import traceback
from collections.abc import Callable
from pathlib import Path

from lightning_modules.common.files import describe_place_error

INPUT_ERRORS = (
    ("datamodules.images.problems", "GMDataError"),
    ("datamodules.images.image_io", "ImageFileError"),
    ("lightning_modules.artifacts.manifold_files", "ManifoldError"),
    ("lightning_modules.fingerprints.fingerprint", "FingerprintError"),
)
"""Classes of errors that are always mistakes of input, by module: one that is not loaded has raised nothing."""
ROOT = Path(__file__).parents[2]
OURS = tuple(str(ROOT / package) for package in ("lightning_modules", "datamodules"))


def run_command(main: Callable[[], object]) -> None:
    """Run an entry point; for a mistake of input, print its message and leave with status 2."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # as standard error: a path may be no text
    try:
        main()
    except SystemExit as left:
        if not isinstance(left.code, str):
            raise
        sys.stderr.write(f"{left.code}\n")
        raise SystemExit(2) from None
    except Exception as error:
        message = mistake(error)
        if message is None:
            raise
        sys.stderr.write(f"error: {message}\n")
        raise SystemExit(2) from None
    except KeyboardInterrupt:
        sys.stderr.write("\nstopped; what is finished is kept, and the same command goes on from there\n")
        raise SystemExit(130) from None


def mistake(error: BaseException) -> str | None:
    """The message of a mistake of input; None for any other error, whose traceback is wanted.

    Such are errors of the classes for it, a place that cannot be written to, and a ValueError that a statement of this
    project raises, also where a library has wrapped it, as jsonargparse does with those of constructors.
    """
    loaded = [getattr(sys.modules[module], name) for module, name in INPUT_ERRORS if module in sys.modules]
    kinds = (*loaded, FileNotFoundError)
    each: BaseException | None = error
    while each is not None:
        if isinstance(each, kinds) or (isinstance(each, ValueError) and _is_raised_by_us(each)):
            return str(each)
        if (place := describe_place_error(each)) is not None:
            return place
        each = each.__cause__
    return None


def _is_raised_by_us(error: BaseException) -> bool:
    frames = traceback.extract_tb(error.__traceback__)
    return bool(frames) and frames[-1].filename.startswith(OURS) and (frames[-1].line or "").startswith("raise ")

"""Mistakes of input end in their message, not in a traceback."""

from __future__ import annotations

import sys
from collections.abc import Callable

from datamodules.gm_index.problems import GMDataError
from lightning_modules.artifacts import ManifoldError
from lightning_modules.fingerprints.fingerprint_file import FingerprintError

INPUT_ERRORS = (GMDataError, ManifoldError, FingerprintError, FileNotFoundError)


def run_command(main: Callable[[], object]) -> None:
    """Run an entry point; for a mistake of input, print its message and leave with status 2."""
    try:
        main()
    except INPUT_ERRORS as error:
        sys.stderr.write(f"error: {error}\n")
        raise SystemExit(2) from None
    except KeyboardInterrupt:
        sys.stderr.write("\nstopped; what is finished is kept, and the same command goes on from there\n")
        raise SystemExit(130) from None

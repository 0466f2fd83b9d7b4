"""Where classes are imported from: never from the folder that a run's config lies in.

Only the standard library is imported here: `lightning_modules.cli` calls this before it imports anything else.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[2]
"""The folder of `lightning_modules` and `datamodules`: whoever can write there can change the program itself."""


def settle_import_path() -> None:
    """Give every relative entry of `sys.path` the place that it means now, behind all others.

    An empty entry (`python -c`, an empty part of PYTHONPATH) follows the working directory, which the parser changes to
    the folder of a config while it reads it. The working directory, which `python -m` puts first, goes behind as well:
    no file in it can stand for a library.
    """
    here = Path.cwd()
    first: list[str] = []
    last: list[str] = []
    for entry in sys.path:
        place = here / entry
        (last if place == here and place != PROJECT else first).append(str(place))
    if str(PROJECT) not in first:
        last.insert(0, str(PROJECT))  # where `python -m` was started in it or above
    sys.path[:] = first + [entry for entry in dict.fromkeys(last) if entry not in first]


def never_import_from(folder: Path) -> None:
    """Take a folder, and everything below it, out of `sys.path`; the project's own stays."""
    closed = folder.resolve()
    inside = {entry for entry in sys.path if _within(Path(entry), closed)}
    sys.path[:] = [entry for entry in sys.path if entry not in inside]
    for entry in inside:
        sys.path_importer_cache.pop(entry, None)


def _within(entry: Path, folder: Path) -> bool:
    place = Path(os.path.realpath(entry))
    libraries = [Path(prefix).resolve() for prefix in (sys.prefix, sys.base_prefix)]
    if place == PROJECT or any(each in place.parents for each in libraries):
        return False
    return place == folder or folder in place.parents

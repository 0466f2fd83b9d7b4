"""Writing a file whole or not at all, and where it holds secrets for its owner alone."""

from __future__ import annotations

import os
from pathlib import Path


def replace_file(path: Path, content: bytes, private: bool = False) -> None:
    """Write a file beside its place and rename it.

    Args:
        path: the file; its folder must exist.
        content: its bytes.
        private: readable and writable by its owner only, from the first byte on.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    temporary.unlink(missing_ok=True)
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL
    with os.fdopen(os.open(temporary, flags, 0o600 if private else 0o666), "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)

"""A small fingerprint for registries, and what the `users` command says when it refuses; no test in here."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from lightning_modules.cli.users import users as main
from lightning_modules.fingerprints.fingerprint import make_fingerprint, write_fingerprint
from lightning_modules.fingerprints.layouts import place_key

BITS = 16


def write_small_fingerprint(path: Path, bits: int = BITS) -> Path:
    latents = torch.randn(100, 40, generator=torch.Generator().manual_seed(0))
    placed = place_key(lambda: latents.split(50), 40, bits, -bits)
    write_fingerprint(make_fingerprint(placed, 1.5, -bits, "flat", "abc123", "g.pt"), path)
    return path


def refused(capsys, *args: str) -> str:
    """The message that a command is refused with, on one stream, with status 2."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as caught:
        main(list(args))
    assert caught.value.code == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err.startswith("error: ")
    return shown.err


def told(err: str) -> str:
    """What a command said on the second stream, but that keys as short as these name nobody."""
    return "".join(line for line in err.splitlines(keepends=True) if "their keys can tell apart" not in line)


def private(path: Path, text: str) -> Path:
    path.write_text(text)
    path.chmod(0o600)
    return path

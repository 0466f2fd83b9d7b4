"""A W&B run without a server, and what its own reader finds in its file."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest


@contextmanager
def offline_run(folder: Path, **options: Any) -> Iterator[Any]:
    """A run whose files lie below `folder`; whole when the block ends."""
    import wandb

    # the client reads the environment once a process: what ran before must not count, nor this for what runs later
    wandb.teardown()
    settings = wandb.Settings(console="off", silent=True, disable_git=True, x_disable_stats=True)
    with pytest.MonkeyPatch.context() as patch, tempfile.TemporaryDirectory() as staged:
        patch.setenv("WANDB_DATA_DIR", staged)  # its default is the user's home
        run = wandb.init(project="tests", mode="offline", dir=folder, settings=settings, **options)
        try:
            yield run
        finally:
            run.finish()
            wandb.teardown()


def read_back(folder: Path) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Summary and records of the one run below `folder`, by `wandb leet inspect`."""
    (path,) = folder.glob("wandb/offline-run-*/*.wandb")
    command = [sys.executable, "-m", "wandb", "leet", "inspect", "--json"]
    whole = subprocess.run([*command, "--summary", str(path)], capture_output=True, text=True, check=True).stdout
    lines = subprocess.run([*command, str(path)], capture_output=True, text=True, check=True).stdout.splitlines()
    return json.loads(whole), [json.loads(line) for line in lines]


def of_type(records: list[dict[str, Any]], kind: str) -> list[dict[str, Any]]:
    """The records of one kind: `history`, `metric`, `artifact`."""
    return [record[kind] for record in records if record["type"] == kind]

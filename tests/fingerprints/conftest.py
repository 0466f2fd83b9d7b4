"""A registry of two users that tests can change."""

from __future__ import annotations

from pathlib import Path

import pytest
from small_registry import write_small_fingerprint

from lightning_modules.fingerprints.users.manage import create_users


@pytest.fixture(scope="module")
def fingerprint(tmp_path_factory) -> str:
    return str(write_small_fingerprint(tmp_path_factory.mktemp("fingerprint") / "f.safetensors"))


@pytest.fixture
def users(tmp_path, fingerprint) -> Path:
    """A registry of alice and bob."""
    path = tmp_path / "users.json"
    create_users(path, ["alice", "bob"], Path(fingerprint))
    return path

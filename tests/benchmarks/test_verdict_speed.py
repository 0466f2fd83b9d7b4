"""A verdict among a million users, and their registry: `python -m pytest tests/benchmarks -m benchmark -s -k verdict`.

Processor time on one thread, so that a busy machine does not decide the outcome.
"""

from __future__ import annotations

import time
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import torch
from small_registry import write_small_fingerprint

from lightning_modules.fingerprints.users.key_registry import read_registry
from lightning_modules.fingerprints.users.keys import unpack_key
from lightning_modules.fingerprints.users.manage import create_users, export_users, import_users
from lightning_modules.fingerprints.users.verdicts import attribute

USERS, BITS = 1_000_000, 64


def verdicts(users: int, bits: int, images: int, readings: int = 1) -> tuple[list[float], int]:
    """Seconds of a verdict on each image, which carries a user's key read with errors; and the most bytes of one."""
    random = np.random.default_rng(0)
    packed = random.integers(0, 256, size=(users, bits // 8), dtype=np.uint8)
    names = [f"user{number}" for number in range(users)]
    seconds = []
    for _ in range(images):
        owner = int(random.integers(users))
        signs = unpack_key(packed[owner].tobytes(), bits).float() * 2 - 1
        logits = 4.0 * signs + 2.0 * torch.from_numpy(random.standard_normal(bits)).float()
        others = torch.from_numpy(random.standard_normal((readings - 1, bits))).float() if readings > 1 else None
        start = time.process_time()
        verdict = attribute(logits, names, packed, others=others)
        seconds.append(time.process_time() - start)
        assert verdict.user == names[owner]
    tracemalloc.start()
    attribute(logits, names, packed, others=others)
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return seconds, most


def registry(folder: Path, users: int) -> dict[str, float]:
    """Seconds of each command on a registry of so many users."""
    fingerprint = write_small_fingerprint(folder / "f.safetensors", 32)
    steps = {
        "create": lambda: create_users(folder / "a.json", [f"user{number}" for number in range(users)], fingerprint),
        "load": lambda: read_registry(folder / "a.json"),
        "export": lambda: export_users(folder / "a.json", folder / "keys.csv"),
        "import": lambda: import_users(folder / "b.json", folder / "keys.csv", fingerprint),
    }
    seconds = {}
    for name, step in steps.items():
        start = time.process_time()
        found = step()
        seconds[name] = time.process_time() - start
        assert len(found.users) == users
    return seconds


@pytest.mark.benchmark
@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize(("readings", "bar"), [(1, 0.05), (111, 1.0)])
def test_a_verdict_among_a_million_users_takes_less_than_a_second(readings, bar):
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        seconds, most = verdicts(USERS, BITS, 20, readings)
    finally:
        torch.set_num_threads(before)
    median = float(np.median(seconds))
    print(
        f"\n{USERS:,} users of {BITS} bits, {readings} readings of an image: {1000 * median:.1f} ms of processor "
        f"time a verdict, {most / 2**20:.1f} MiB"
    )
    assert median < bar
    assert most < 12 * USERS


@pytest.mark.benchmark
@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_a_registry_of_a_million_users_takes_less_than_a_minute(tmp_path):
    seconds = registry(tmp_path, USERS)
    print(f"\n{USERS:,} users:", ", ".join(f"{name} {taken:.1f} s" for name, taken in seconds.items()))
    assert sum(seconds[name] for name in ("create", "load", "import")) < 60

"""Which process of a run this is, before Lightning knows it: what has started it tells in the environment."""

from __future__ import annotations

import os
import sys
import time

LAUNCHED = "MANIFOLD_FINGERPRINTS_RUN_FOLDER"
"""What the first process of a node tells those that it launches."""
_RANKS = ("RANK", "LOCAL_RANK", "SLURM_PROCID", "JSM_NAMESPACE_RANK")  # in Lightning's order
OTHERS_SPEAK_AFTER = 3.0  # seconds; torchrun ends a process a tenth of a second after another one has failed


def rank() -> int:
    """Place of this process among those of the run: 0 for the first one, or where it is alone."""
    name = next((name for name in _RANKS if name in os.environ), "")
    machine = _number("NODE_RANK") if name in ("", "LOCAL_RANK") else 0
    return _number(name) + 10_000 * machine


def local_rank() -> int:
    """Number of this process among those of its machine."""
    return _number("LOCAL_RANK" if "LOCAL_RANK" in os.environ else "SLURM_LOCALID")


def is_launched() -> bool:
    """Whether another process of the same run has started this one, after it had checked what is asked for."""
    return LAUNCHED in os.environ and local_rank() != 0


def started_together() -> bool:
    """Whether torchrun or a scheduler has started several processes, which all check the same."""
    scheduled = os.environ.get("SLURM_JOB_NAME", "interactive") not in ("bash", "interactive")
    count = max(_number("WORLD_SIZE"), _number("SLURM_NTASKS") if scheduled else 0)
    return not is_launched() and count > 1


def _number(name: str) -> int:
    found = os.environ.get(name, "")
    return int(found) if found.isdigit() else 0


def speak(message: str) -> None:
    """Write a message that ends this process, once where all processes of a run have found the same.

    The first one speaks at once. The others wait, and are ended meanwhile if the first one has left; what they alone
    have found is told a few seconds later.
    """
    if rank() and started_together():
        time.sleep(OTHERS_SPEAK_AFTER * (1 + bool(local_rank())))
    sys.stderr.write(f"{message}\n")
    sys.stderr.flush()

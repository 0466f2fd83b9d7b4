"""Run a function in several gloo processes; no test in here."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp


def _worker(rank: int, world: int, folder: str, function: Callable[[int, int], Any]) -> None:
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=world, timeout=timedelta(seconds=60)
    )
    try:
        torch.save(function(rank, world), f"{folder}/result-{rank}.pt")
    finally:
        dist.destroy_process_group()


def in_processes(function: Callable[[int, int], Any], world: int, folder: Path) -> list[Any]:
    """`function(rank, world)` in `world` processes; the results by rank."""
    mp.start_processes(_worker, args=(world, str(folder), function), nprocs=world, start_method="fork")
    return [torch.load(folder / f"result-{rank}.pt", weights_only=True) for rank in range(world)]

"""Attacks on a batch against one image after the other: `python -m pytest tests/benchmarks -m benchmark -s -k attack`.

64 images of 64 px on one thread, processor time. `differentiable` is to be five times as fast in a batch. `real` works
through the images one by one in any case, as its bytes must not depend on the batch: it only must not be slower.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest
import torch
from measuring import interleaved, ratio
from torch import Tensor

from lightning_modules.attacks import image_seeds, make_attack
from lightning_modules.attacks.base import Attack
from lightning_modules.attacks.codec_table import photographs

pytestmark = [pytest.mark.benchmark, pytest.mark.slow, pytest.mark.timeout(1800)]

IMAGES, SIZE, ROUNDS = 64, 64, 15
WANTED = {"differentiable": 5.0, "real": 1.0}
NAMES = ("paper-noise", "noise_0.05", "paper-blur", "paper-scaled-blur", "blur_1", "paper-strongest-blur")
NAMES += ("paper-jpeg", "jpeg_50", "paper-combination", "combination_0.5")


def inputs(count: int, size: int) -> tuple[Tensor, Tensor]:
    tiles = photographs(size)
    return tiles[torch.arange(count) % len(tiles)], image_seeds(0, range(count))


def contenders(attack: Attack, implementation: str, images: Tensor, seeds: Tensor) -> dict[str, Callable[[], Tensor]]:
    run = getattr(attack, implementation)
    return {
        "batch": lambda: run(images, seeds),
        "singly": lambda: torch.cat([run(images[i : i + 1], seeds[i : i + 1]) for i in range(len(images))]),
    }


@pytest.mark.parametrize("implementation", list(WANTED))
@pytest.mark.parametrize("name", NAMES)
def test_a_batch_is_attacked_faster_than_its_images(name: str, implementation: str):
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        runs = contenders(make_attack(name), implementation, *inputs(IMAGES, SIZE))
        seconds = interleaved(ROUNDS, clock=time.process_time, **runs)
    finally:
        torch.set_num_threads(threads)
    each = {way: 1e6 * min(times) / IMAGES for way, times in seconds.items()}
    gain = ratio(seconds, "singly", "batch")
    print(
        f"\n{name:22} {implementation:15} batch {each['batch']:5.0f} us an image, singly {each['singly']:5.0f}", end=""
    )
    print(f", ratio {gain:.1f}", end="")
    assert gain >= WANTED[implementation]

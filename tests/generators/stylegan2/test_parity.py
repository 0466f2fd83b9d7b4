"""Our StyleGAN2 against the public implementations: `golden.npz` was made by `make_golden.py` from the same weights."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from public_files import nvidia_state, rosinality_state, write_nvidia, write_rosinality
from seeded_weights import seeded_tensor
from torch import Tensor

from lightning_modules.generators.checkpoints.stored import StoredGenerator
from lightning_modules.generators.stylegan2.generator import StyleGAN2Generator
from lightning_modules.generators.stylegan2.read_nvidia import read_nvidia
from lightning_modules.generators.stylegan2.read_rosinality import read_rosinality

GOLDEN = np.load(Path(__file__).with_name("golden.npz"))
PIXELS = 16
SIZES = [32, *(pytest.param(size, marks=pytest.mark.slow) for size in (64, 128, 256))]


def read(form: str, size: int, folder: Path) -> StoredGenerator:
    if form == "rosinality":
        return read_rosinality(write_rosinality(folder / "g.pt", rosinality_state(size)))
    return read_nvidia(write_nvidia(folder / "g.pkl", nvidia_state(size)))


def built(stored: StoredGenerator) -> StyleGAN2Generator:
    generator = StyleGAN2Generator(**stored.arguments)
    generator.load_state_dict(stored.tensors)
    return generator.freeze()


def golden(name: str) -> Tensor:
    return torch.from_numpy(GOLDEN[name])


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("form", ["rosinality", "nvidia"])
def test_images_and_gradients_equal_the_public_implementation(form: str, size: int, tmp_path: Path) -> None:
    generator = built(read(form, size, tmp_path))
    z = seeded_tensor("z", (1, 512))
    expected_w = golden(f"{form}_{size}_w")
    assert torch.allclose(generator.mapping(z), expected_w, rtol=0, atol=1e-5)

    with torch.no_grad():
        image = generator.synthesize(expected_w, noise="buffers")
    step = size // PIXELS
    kept = image[0, :, step // 2 :: step, step // 3 :: step]
    assert float((kept - golden(f"{form}_{size}_image")).abs().max()) < 1e-4

    # in single precision a few units change sides of the leaky ReLU, so gradients are compared in double
    generator.double()
    w = generator.mapping(z.double()).requires_grad_(True)
    image = generator.synthesize(w, noise="buffers")
    (image * seeded_tensor("direction", tuple(image.shape))).sum().backward()
    gradient = golden(f"{form}_{size}_gradient")
    assert float((w.grad - gradient).abs().max()) < 1e-5 * float(gradient.abs().max())


def test_the_reference_is_sensitive_to_every_part() -> None:
    """The golden images show contrast: neither saturated nor flat, so that agreement means something."""
    for form in ("rosinality", "nvidia"):
        for size in (32, 64, 128, 256):
            image = golden(f"{form}_{size}_image")
            assert image.shape == (3, PIXELS, PIXELS)
            assert float(image.std()) > 0.2

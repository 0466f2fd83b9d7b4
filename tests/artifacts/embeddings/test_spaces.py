"""FREQ and residual spaces against numpy and Pillow's definitions; packaged and local weights of network spaces."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from lightning_modules.artifacts import build_embedding, embedding_identity
from lightning_modules.artifacts.embeddings.filters import high_pass


def images(count: int = 3, height: int = 12, width: int = 10) -> Tensor:
    generator = torch.Generator().manual_seed(count)
    return torch.randint(0, 256, (count, 3, height, width), generator=generator).float() / 255


def test_shown_spectra_are_those_of_the_paper():
    seen = images()
    freq = build_embedding("freq")
    found = freq.show(freq(seen)).numpy()
    spectrum = np.fft.fftshift(np.fft.fft2(seen.double().numpy()), axes=(-2, -1))
    assert found.shape == seen.shape
    np.testing.assert_allclose(found, np.log(np.abs(spectrum) + 1e-12), atol=1e-5)


def test_distances_of_half_planes_are_those_of_whole_spectra():
    first, second = images(2)
    freq = build_embedding("freq")
    half, whole = (
        transform(first[None]) - transform(second[None]) for transform in (freq, lambda x: freq.show(freq(x)))
    )
    assert half.shape == (1, 3, 12, 6)
    torch.testing.assert_close(half.double().norm(), whole.double().norm())


def test_a_spectrum_of_the_mirrored_image_is_the_mirrored_spectrum():
    freq = build_embedding({"name": "freq", "channels": "ycbcr", "high_pass": True})
    seen = images()
    torch.testing.assert_close(freq.mirror(freq.show(freq(seen))), freq.show(freq(seen.flip(-1))), atol=1e-4, rtol=0)


def test_coefficients_that_are_zero_lie_at_the_floor():
    grey = torch.full((1, 3, 8, 8), 100 / 255)
    freq = build_embedding("freq")
    shown = freq.show(freq(grey))[0, 0]
    assert shown[4, 4] == pytest.approx(np.log(64 * 100 / 255), abs=1e-5)
    shown[4, 4] = shown[0, 0]
    assert (shown < -25).all()


def test_channels_are_those_of_bt601():
    red = torch.tensor([1.0, 0.0, 0.0]).view(1, 3, 1, 1).expand(1, 3, 4, 4)
    spectra = {name: build_embedding({"name": "freq", "channels": name})(red) for name in ("rgb", "grey", "ycbcr")}
    assert {name: spectrum.shape[1] for name, spectrum in spectra.items()} == {"rgb": 3, "grey": 1, "ycbcr": 3}
    middle = {name: spectrum[0, :, 0, 0].exp() / 16 for name, spectrum in spectra.items()}
    assert middle["grey"].tolist() == pytest.approx([0.299], abs=1e-3)
    assert middle["ycbcr"].tolist() == pytest.approx([0.299, 0.331, 1.0], abs=2e-3)
    with pytest.raises(ValueError, match="found channels 'gray'; did you mean grey"):
        build_embedding({"name": "freq", "channels": "gray"})


def test_the_residual_is_the_image_minus_its_binomial_blur():
    seen = images()
    mirrored = np.pad(seen.numpy(), ((0, 0), (0, 0), (1, 1), (1, 1)), mode="reflect")
    taps = np.outer([1, 2, 1], [1, 2, 1]) / 16
    blurred = sum(taps[i, j] * mirrored[..., i : i + 12, j : j + 10] for i in range(3) for j in range(3))
    np.testing.assert_allclose(high_pass(seen).numpy(), seen.numpy() - blurred, atol=1e-6)
    assert torch.equal(build_embedding("residual")(seen), high_pass(seen))


def test_spaces_of_other_arguments_are_other_spaces():
    choices = ["freq", {"name": "freq", "channels": "grey"}, {"name": "freq", "high_pass": True}, "residual"]
    choices += ["rgb", {"name": "residual", "channels": "ycbcr"}]
    built = [build_embedding(choice) for choice in choices]
    assert len({str(embedding_identity(embedding)) for embedding in built}) == len(choices)
    assert len({embedding.label for embedding in built}) == len(choices)


def test_odd_widths_have_no_half_plane():
    with pytest.raises(ValueError, match="9 px wide, expected an even width"):
        build_embedding("freq")(images(width=9))

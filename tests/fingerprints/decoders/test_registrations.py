"""Where registrations move images, how well a place explains what was read, how sure log odds are."""

from __future__ import annotations

import math

import pytest
import torch

from lightning_modules.fingerprints.decoders.post_processing import FILTERS
from lightning_modules.fingerprints.decoders.registrations import (
    MIRRORED,
    Registration,
    certainty,
    plausibility,
    registrations,
    resampled,
)


@pytest.mark.parametrize("size", [32, 64])
def test_shifts_are_by_whole_pixels_of_images_of_any_size(size):
    images = torch.rand(2, 3, size, size, generator=torch.Generator().manual_seed(0))
    down_left = Registration(down=1, right=-1)(images)
    assert torch.allclose(down_left[..., 1:, :-1], images[..., :-1, 1:], atol=1e-4)
    assert torch.allclose(down_left[..., 0, :-1], images[..., 0, 1:], atol=1e-4)  # the edge is repeated
    back = Registration(down=-1, right=1)(down_left)
    assert torch.allclose(back[..., :-1, 1:], images[..., :-1, 1:], atol=1e-4)


def test_matrices_are_what_registrations_do_and_their_product_one_after_the_other():
    coarse = torch.rand(2, 3, 5, 5, generator=torch.Generator().manual_seed(0))
    images = torch.nn.functional.interpolate(coarse, size=(48, 48), mode="bicubic").clamp(0, 1)
    matrix = MIRRORED.matrix(48, 48).expand(2, -1, -1)
    assert torch.allclose(resampled(images, matrix), images.flip(-1), atol=1e-4)
    first, second = Registration(part_down=1.0, zoom=0.8), Registration(right=6.0, degrees=2.0)
    together = resampled(images, (first.matrix(48, 48) @ second.matrix(48, 48)).expand(2, -1, -1))
    inside = (slice(None), slice(None), slice(8, 40), slice(8, 40))  # apart, the edge is repeated twice
    assert float((together - second(first(images)))[inside].abs().max()) < 0.03
    assert float((together - first(second(images)))[inside].abs().max()) > 0.06


def test_what_an_image_does_not_show_is_taken_from_the_ground():
    images = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    ground = torch.linspace(0, 1, 3 * 16 * 16).view(1, 3, 16, 16)
    put_back = Registration(down=2, right=-1)(images, ground)
    assert torch.allclose(put_back[..., 2:, :-1], images[..., :-2, 1:], atol=1e-4)
    assert torch.equal(put_back[..., :2, :], ground[..., :2, :].expand(2, -1, -1, -1))
    assert torch.equal(put_back[..., -1], ground[..., -1].expand(2, -1, -1))
    assert torch.equal(MIRRORED(images, ground), images.flip(-1))


@pytest.mark.parametrize("place", [Registration(zoom=0.9), Registration(degrees=3.0), Registration(part_right=0.7)])
def test_mixed_precision_moves_no_image(place):
    coarse = torch.rand(2, 3, 12, 12, generator=torch.Generator().manual_seed(0))
    images = torch.nn.functional.interpolate(coarse, size=(64, 64), mode="bicubic").clamp(0, 1)
    matrices = place.matrix(64, 64).expand(2, -1, -1)
    put_back, value = resampled(images, matrices), plausibility(images, images.flip(-1), matrices)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(resampled(images, matrices), put_back)
        assert torch.equal(plausibility(images, images.flip(-1), matrices), value)


def test_of_all_places_the_right_one_is_the_most_plausible():
    """A picture that was cropped, mirrored, turned or put into a frame lies where it does, blurred or not."""
    coarse = torch.rand(2, 3, 12, 12, generator=torch.Generator().manual_seed(0))
    images = torch.nn.functional.interpolate(coarse, size=(48, 32), mode="bicubic").clamp(0, 1)
    places = registrations(["flip", "shift", "zoom", "turn"])
    matrices = torch.stack([place.matrix(48, 32) for place in places])
    for one in (0, 1, 5, 10, 20, 46, 54, 60, 80):
        undone = torch.linalg.inv(matrices[one]).expand(2, -1, -1)
        for seen in (resampled(images, undone), FILTERS["blur_0.7"](resampled(images, undone))):
            found = torch.stack([plausibility(images, seen, matrix.expand(2, -1, -1)) for matrix in matrices])
            assert found.argmax(dim=0).tolist() == [one, one], places[one]


def test_plausibility_counts_what_lies_within_the_picture():
    """A frame tells nothing; half the residual is worth log 4 for every hundred pixels."""
    made = torch.full((1, 3, 32, 32), 0.5)
    matrices = Registration(zoom=2.0).matrix(32, 32)[None]
    seen = torch.full((1, 3, 32, 32), 0.7)
    inner = (..., slice(8, 24), slice(8, 24))
    seen[inner] = 0.5 + 0.2
    far = plausibility(made, seen, matrices)
    seen[inner] = 0.5 + 0.1
    near = plausibility(made, seen, matrices)
    assert float(near - far) == pytest.approx(1024 / 100 * math.log(0.0401 / 0.0101), rel=1e-4)


def test_certainty_is_the_information_of_the_bits():
    """Nothing for even odds, log 2 a bit for certain ones; of 3 to 1, log 2 less the entropy of a quarter."""
    assert float(certainty(torch.zeros(1, 8))) == pytest.approx(0.0, abs=1e-12)
    assert float(certainty(torch.full((1, 8), 60.0))) == pytest.approx(8 * math.log(2))
    entropy = -(0.25 * math.log(0.25) + 0.75 * math.log(0.75))
    assert float(certainty(torch.tensor([[math.log(3.0), -math.log(3.0)]]))) == pytest.approx(
        2 * (math.log(2) - entropy), rel=1e-6
    )


def test_an_unknown_name_is_refused():
    with pytest.raises(ValueError, match=r"flop.*flip"):
        registrations(["flop"])
    with pytest.raises(ValueError, match=r"finer.*fine"):
        registrations(["finer"])

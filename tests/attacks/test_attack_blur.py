"""The blur equals independent convolutions, moves the image only where it says so, and stops where it must."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from coloured_images import some_images, some_seeds
from kornia.filters import filter2d_separable, gaussian_blur2d, get_gaussian_kernel1d
from scipy.ndimage import gaussian_filter, shift
from torch.nn.functional import avg_pool2d

from lightning_modules.attacks import make_attack
from lightning_modules.attacks.blur import blur_by_matrices, gaussian_taps, taps_of_enlarged


def blur(kernel, sigma, **options):
    return make_attack({"kind": "blur", "kernel": kernel, "sigma": sigma, **options})


@pytest.mark.parametrize(("kernel", "sigma"), [(3, 0.5), (7, 2.0), (9, 1.0), (25, 2.0)])
def test_odd_kernels_equal_scipy_everywhere(kernel, sigma):
    image = some_images(1)
    ours = blur(kernel, sigma).differentiable(image, some_seeds(1))[0].numpy()
    # scipy's "mirror" is the border whose edge pixel is not repeated
    theirs = [gaussian_filter(c.astype(np.float64), sigma, mode="mirror", radius=kernel // 2) for c in image[0].numpy()]
    assert np.abs(ours - np.stack(theirs)).max() < 1e-5
    exact = blur(kernel, sigma)(image, some_seeds(1))[0].numpy()
    rounded = np.round(255 * np.stack(theirs)) / 255
    assert np.mean(np.abs(exact - rounded) > 1e-6) < 0.005  # a rounding may fall the other side of a half
    assert np.abs(exact - rounded).max() < 1.01 / 255


@pytest.mark.parametrize("taps", [1, 3, 9, 25])
def test_matrices_correlate_as_a_convolution_does(taps):
    generator = torch.Generator().manual_seed(taps)
    images = torch.rand(5, 3, 20, 13, generator=generator)
    weights = torch.rand(5, taps, generator=generator)
    weights /= weights.sum(1, keepdim=True)
    assert torch.allclose(
        blur_by_matrices(images, weights), filter2d_separable(images, weights, weights, "reflect"), atol=1e-6
    )


@pytest.mark.parametrize("size", [64, 65])
def test_small_images_and_large_ones_are_blurred_alike(size):
    images, seeds = some_images(6, size=size), some_seeds(6)
    attack = make_attack("paper-blur")
    exact = attack.attack_pixels(images.double(), seeds.numpy())
    assert torch.allclose(attack.differentiable(images, seeds).double(), exact, atol=1e-5)


def test_kernels_equal_kornias_own():
    images = some_images(4)
    sigma = torch.tensor([0.5, 1.0, 1.5, 2.0])
    pairs = zip(sigma.tolist(), images, strict=True)
    odd = torch.cat([blur(9, one).differentiable(image[None], some_seeds(1)) for one, image in pairs])
    assert torch.allclose(odd, gaussian_blur2d(images, 9, sigma[:, None].expand(4, 2)), atol=1e-6)
    taps = get_gaussian_kernel1d(16, 1.5, force_even=True)
    even = blur(16, 1.5).differentiable(images, some_seeds(4))
    assert torch.allclose(even[..., 8:-8, 8:-8], filter2d_separable(images, taps, taps)[..., 8:-8, 8:-8], atol=1e-6)


@pytest.mark.parametrize(("kernel", "moved"), [(16, -0.5), (17, 0.0), (4, -0.5), (3, 0.0)])
def test_an_even_kernel_moves_the_image_half_a_pixel_left_and_up(kernel, moved):
    point = torch.zeros(1, 3, 41, 41)
    point[0, :, 20, 20] = 1.0
    for face in (blur(kernel, 1.0).differentiable, lambda i, s: blur(kernel, 1.0).attack_pixels(i.double(), s.numpy())):
        spread = face(point, some_seeds(1))[0, 0].double()
        assert float(spread.sum()) == pytest.approx(1.0, abs=1e-5)
        for axis in (0, 1):
            profile = spread.sum(1 - axis)
            assert float((profile * torch.arange(41)).sum()) == pytest.approx(20 + moved, abs=1e-4)
        assert int((spread.sum(0) > 0).sum()) <= kernel


def test_the_image_moves_as_a_shifted_blur_does():
    image = some_images(1, size=64)
    sixteen = blur(16, 2.0).differentiable(image, some_seeds(1))[0, 0].numpy()
    seventeen = blur(17, 2.0).differentiable(image, some_seeds(1))[0, 0].numpy()
    inner = (slice(12, -12), slice(12, -12))
    still = np.abs(sixteen - seventeen)[inner].max()
    moved = np.abs(sixteen - shift(seventeen, (-0.5, -0.5), order=3))[inner].max()
    assert moved < 0.1 * still


def test_each_image_of_a_batch_has_its_own_kernel_and_sigma():
    images, seeds = some_images(40), some_seeds(40)
    attack = make_attack("paper-blur")
    drawn = attack.draw(seeds.numpy(), 32)
    assert len(set(drawn["kernel"].tolist())) == 5
    whole = attack(images, seeds)
    for row, (kernel, sigma) in enumerate(zip(drawn["kernel"], drawn["sigma"], strict=True)):
        alone = blur(int(kernel), float(sigma))(images[row : row + 1], seeds[:1])
        assert torch.equal(alone[0], whole[row])


def test_scaled_blur_of_a_small_image_is_what_its_sigma_says():
    image = some_images(1, size=64)
    drawn = blur(25, 2.0, reference_size=256).draw(some_seeds(1).numpy(), 64)
    assert (drawn["kernel"].tolist(), drawn["sigma"].tolist()) == ([7], [0.5])
    scaled = blur(25, 2.0, reference_size=256)(image, some_seeds(1))
    assert torch.equal(scaled, blur(7, 0.5)(image, some_seeds(1)))


@pytest.mark.parametrize(("kernel", "sigma"), [(25, 2.0), (16, 1.5), (3, 0.5)])
def test_an_image_blurred_as_if_enlarged_equals_one_that_is(kernel, sigma):
    image = some_images(1)
    large = image.repeat_interleave(8, dim=2).repeat_interleave(8, dim=3)
    there = avg_pool2d(blur(kernel, sigma).differentiable(large, some_seeds(1)), 8)
    here = blur(kernel, sigma, reference_size=256, scaling="image").differentiable(image, some_seeds(1))
    assert torch.allclose(here[..., 4:-4, 4:-4], there[..., 4:-4, 4:-4], atol=1e-5)
    with pytest.raises(ValueError, match="found images of 32 px"):
        blur(kernel, sigma, reference_size=16, scaling="image")(image, some_seeds(1))


def test_at_the_reference_size_both_scalings_are_the_blur_itself():
    image, seeds = some_images(4, size=64), some_seeds(4)
    papers = {"kernel": [3, 7, 9, 16, 25], "sigma": [0.5, 1.0, 1.5, 2.0]}
    for scaling in ("parameters", "image"):
        assert torch.equal(
            blur(**papers, reference_size=64, scaling=scaling)(image, seeds), blur(**papers)(image, seeds)
        )


def test_at_32_px_scaled_parameters_vanish_and_the_scaled_image_does_not():
    image, seeds = some_images(30), some_seeds(30)
    clean = make_attack("identity")(image, seeds)
    changed = {name: make_attack(f"paper-{name}-blur")(image, seeds) != clean for name in ("scaled", "enlarged")}
    assert float(changed["scaled"].float().mean()) < 0.01
    assert float(changed["enlarged"].float().mean()) > 0.2
    strongest = taps_of_enlarged(gaussian_taps(25, np.array([2.0]), 0.0), 8.0)[0]
    assert strongest[[1, 2, 3]].round(2).tolist() == [0.1, 0.8, 0.1]
    assert gaussian_taps(3, np.array([0.25]), 0.0)[0, 0] < 0.00034


def test_a_kernel_that_follows_sigma_reaches_four_of_them():
    drawn = make_attack("blur_1.5").draw(some_seeds(1).numpy(), 32)
    assert drawn["kernel"].tolist() == [13]


def test_an_image_too_small_for_the_kernel_is_refused():
    small = torch.rand(1, 3, 12, 40)
    for face in (blur(25, 2.0), blur(25, 2.0).differentiable):
        with pytest.raises(ValueError, match=r"25 taps reaches 12 px .* mirrored by 11 px"):
            face(small, some_seeds(1))
    assert blur(25, 2.0)(torch.rand(1, 3, 13, 13), some_seeds(1)).shape == (1, 3, 13, 13)


@pytest.mark.parametrize("kernel", [3, 16, 25])
@pytest.mark.parametrize("strength", [0.0, 1e-4, 0.5, 1.0])
def test_brightness_is_kept_and_weak_blurs_do_nothing(kernel, strength):
    flat = torch.full((1, 3, 32, 32), 0.25)
    weak = blur(kernel, 2.0).at_strength(strength)
    assert torch.allclose(weak.differentiable(flat, some_seeds(1)), flat, atol=1e-6)
    if strength < 1e-3:
        image = some_images(1)
        assert torch.allclose(weak.differentiable(image, some_seeds(1)), image, atol=1e-6)

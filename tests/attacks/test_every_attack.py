"""What holds for every attack, by name: one image's result is its own, and the two implementations are one attack."""

from __future__ import annotations

import pytest
import torch
from coloured_images import some_images, some_seeds

from lightning_modules.attacks import make_attack, make_attacks
from lightning_modules.attacks.codec_table import psnr
from lightning_modules.attacks.registry import ATTACKS, PRESETS, curves, preset_specs
from lightning_modules.common.images import to_uint8

DIFFERENT = {
    repr(spec): f"{preset}-{kind}" for preset in reversed(PRESETS) for kind, spec in preset_specs()[preset].items()
}
NAMES = [name for name in DIFFERENT.values() if not name.endswith("-identity")]
NAMES += [
    "identity",
    "flip",
    "social",
    *(f"{kind}_{curve.strengths[len(curve.strengths) // 2]}" for kind, curve in curves().items()),
]
# dB, least of the images: two roundings of 8 bits differ by 58 to 60; the two codecs by 34 on the worst image of 120
FLOOR, FLOOR_OF_CODECS = (
    55.0,
    {
        **dict.fromkeys(("jpeg", "combination", "mixture", "social", "chain"), 33.0),
        "scaling": 50.0,  # Pillow rounds between its four passes
    },
)
MEAN, MEAN_OF_CODECS = (
    58.0,
    {
        **dict.fromkeys(("jpeg", "mixture", "social", "chain"), 39.0),
        "combination": 36.0,
        "scaling": 54.0,
        "crop": 57.0,
    },
)


def test_every_kind_is_among_the_names_tested():
    assert {make_attack(name).kind for name in NAMES} == set(ATTACKS), "give the kind a curve, or a place in a preset"
    assert {"paper", "paper-strongest", "paper-scaled", "paper-enlarged"} <= set(PRESETS)
    assert {"noise", "blur", "jpeg", "combination"} <= set(curves())


@pytest.mark.parametrize("name", NAMES)
def test_real_gives_the_same_bytes_whatever_the_batch_and_its_order(name):
    attack, images, seeds = make_attack(name), some_images(12), some_seeds(12)
    whole = attack(images, seeds)
    alone = torch.cat([attack(images[i : i + 1], seeds[i : i + 1]) for i in range(12)])
    order = torch.tensor([7, 3, 11, 0, 5, 1, 10, 2, 8, 4, 9, 6])
    torch.manual_seed(1)
    assert torch.equal(whole, alone)
    assert torch.equal(attack(images[order], seeds[order]), whole[order])
    assert torch.equal(to_uint8(whole).float() / 255, whole)  # what a file holds
    assert attack.draw(seeds.numpy(), 32).keys() == attack.draw(seeds[:1].numpy(), 32).keys()


@pytest.mark.parametrize("name", NAMES)
def test_differentiable_is_the_same_attack_in_other_batches(name):
    attack, images, seeds = make_attack(name), some_images(12), some_seeds(12)
    whole = attack.differentiable(images, seeds)
    parts = torch.cat([attack.differentiable(images[:5], seeds[:5]), attack.differentiable(images[5:], seeds[5:])])
    assert psnr(whole, parts).min() > 55  # last bits may differ; a smoothed rounding of JPEG can amplify one


@pytest.mark.parametrize("name", NAMES)
def test_the_two_implementations_agree(name):
    attack, images, seeds = make_attack(name), some_images(12), some_seeds(12)
    smooth = attack.differentiable(images, seeds)
    assert smooth.dtype == torch.float32
    assert float(smooth.min()) >= 0
    assert float(smooth.max()) <= 1
    agreement = psnr(smooth, attack.real(images, seeds))
    assert agreement.min() > FLOOR_OF_CODECS.get(attack.kind, FLOOR)
    assert agreement.mean() > MEAN_OF_CODECS.get(attack.kind, MEAN)


@pytest.mark.parametrize("name", ["paper-mixture", "paper-strongest-combination"])
def test_autocast_does_not_coarsen_differentiable(name):
    attack, images, seeds = make_attack(name), some_images(12), some_seeds(12)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        cast = attack.differentiable(images, seeds)
    assert cast.dtype == torch.float32
    assert torch.equal(cast, attack.differentiable(images, seeds))


@pytest.mark.gpu
@pytest.mark.parametrize("name", NAMES)
def test_a_cuda_device_meets_the_same_attack(name):
    attack, images, seeds = make_attack(name), some_images(12), some_seeds(12)
    here, there = images, images.cuda()
    assert attack(there, seeds.cuda()).device.type == "cuda"
    assert torch.equal(attack(there, seeds.cuda()).cpu(), attack(here, seeds))
    assert psnr(attack.differentiable(there, seeds.cuda()).cpu(), attack.differentiable(here, seeds)).min() > 45


@pytest.mark.parametrize("name", NAMES)
def test_gradients_reach_every_image(name):
    attack, seeds = make_attack(name), some_seeds(6)
    images = (0.2 + 0.6 * some_images(6)).requires_grad_()
    attack.differentiable(images, seeds).square().mean().backward()
    assert bool(images.grad.isfinite().all())
    assert bool((images.grad.flatten(1).norm(dim=1) > 0).all())
    assert not attack.real(images, seeds).requires_grad


@pytest.mark.parametrize("name", NAMES)
def test_an_empty_batch_stays_empty_and_rectangles_keep_their_shape(name):
    attack = make_attack(name)
    for attacked in (attack.real, attack.differentiable):
        assert attacked(torch.zeros(0, 3, 32, 32), some_seeds(0)).shape == (0, 3, 32, 32)
        assert attacked(torch.rand(2, 3, 24, 40), some_seeds(2)).shape == (2, 3, 24, 40)


@pytest.mark.parametrize("name", NAMES)
def test_strength_scales_from_nothing_to_the_attack(name):
    attack, images, seeds = make_attack(name), some_images(6), some_seeds(6)
    clean = make_attack("identity")(images, seeds)
    assert torch.equal(attack.at_strength(0.0)(images, seeds), clean)
    assert torch.allclose(attack.at_strength(0.0).differentiable(images, seeds), images, atol=1e-6)
    assert torch.equal(attack.at_strength(1.0)(images, seeds), attack(images, seeds))
    twice = attack.at_strength(0.5).at_strength(0.5)
    assert torch.equal(twice(images, seeds), attack.at_strength(0.25)(images, seeds))
    with pytest.raises(ValueError, match="expected 0"):
        attack.at_strength(1.5)


@pytest.mark.parametrize("kind", ["noise", "blur", "jpeg", "combination"])
def test_harm_grows_with_strength(kind):
    attack, images, seeds = make_attack(f"paper-strongest-{kind}"), some_images(8), some_seeds(8)
    harm = [float(psnr(attack.at_strength(s)(images, seeds), images).mean()) for s in (0.25, 0.5, 0.75, 1.0)]
    assert harm == sorted(harm, reverse=True)
    assert harm[0] - harm[-1] > 2
    curve = [float(psnr(a(images, seeds), images).mean()) for a in make_attacks(f"grid-{kind}").values()]
    assert curve == sorted(curve, reverse=True)


@pytest.mark.parametrize(
    ("images", "seeds", "message"),
    [
        (torch.rand(2, 3, 32, 32) * 2 - 1, some_seeds(2), r"expected \[0, 1\]"),
        (torch.rand(2, 3, 32, 32) * 255, some_seeds(2), r"expected \[0, 1\]"),
        (torch.full((2, 3, 32, 32), float("nan")), some_seeds(2), r"expected \[0, 1\]"),
        (torch.rand(2, 1, 32, 32), some_seeds(2), r"\(n, 3, H, W\)"),
        (torch.rand(2, 3, 32, 32).double(), some_seeds(2), "float64"),
        (torch.rand(2, 3, 32, 32), some_seeds(3), r"found torch.int64 \(3,\)"),
        (torch.rand(2, 3, 32, 32), torch.zeros(2), "image_seeds"),
    ],
)
def test_bad_input_is_refused_by_both(images, seeds, message):
    attack = make_attack("paper-jpeg")
    for attacked in (attack, attack.differentiable):
        with pytest.raises(ValueError, match=message):
            attacked(images, seeds)

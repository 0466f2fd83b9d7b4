"""Attacks on images that are passed on, against Pillow itself and against what follows from their definition."""

from __future__ import annotations

from io import BytesIO

import numpy as np
import pytest
import torch
from coloured_images import some_images, some_seeds
from PIL import Image, ImageEnhance

from lightning_modules.attacks import make_attack, make_attacks
from lightning_modules.attacks.geometry import resampling_matrix
from lightning_modules.attacks.registry import preset_specs

IMAGES, SEEDS = some_images(8), some_seeds(8)
CLEAN = make_attack("identity")(IMAGES, SEEDS)


def pictures(images):
    return [Image.fromarray((image * 255).round().byte().permute(1, 2, 0).numpy()) for image in images]


def tensors(found):
    arrays = [np.asarray(each.convert("RGB")) for each in found]
    return torch.from_numpy(np.stack(arrays)).permute(0, 3, 1, 2).float() / 255


@pytest.mark.parametrize("name", ["nearest", "bilinear", "bicubic"])
@pytest.mark.parametrize("side", [(0, 32, 16), (0, 32, 20), (3, 30, 32), (0, 32, 47), (5, 17, 32)])
def test_matrices_hold_the_weights_of_pillow(name, side):
    """Resampled in floats, where Pillow does not round."""
    start, end, size = side
    line = np.random.default_rng(0).random(32).astype(np.float32)
    there = Image.fromarray(line[None]).resize(
        (size, 1), getattr(Image.Resampling, name.upper()), box=(start, 0, end, 1)
    )
    np.testing.assert_allclose(resampling_matrix(32, side, name) @ line, np.asarray(there)[0], atol=1e-6)


def test_scaling_is_what_pillow_does():
    expected = [each.resize((16, 16), Image.Resampling.BICUBIC).resize((32, 32), Image.Resampling.BICUBIC)
                for each in pictures(CLEAN)]  # fmt: skip
    assert torch.equal(make_attack("scaling_0.5")(IMAGES, SEEDS), tensors(expected))


def test_a_crop_is_a_part_of_the_image_enlarged():
    attack = make_attack("crop_0.75")
    drawn = attack.draw(SEEDS.numpy(), 32)
    expected = []
    for place, each in enumerate(pictures(CLEAN)):
        left, top = int(drawn["left"][place] * 9), int(drawn["top"][place] * 9)
        expected.append(each.crop((left, top, left + 24, top + 24)).resize((32, 32), Image.Resampling.BICUBIC))
    found = attack(IMAGES, SEEDS)
    # a resize with a box sees pixels beside it, a crop does not
    assert torch.allclose(found[:, :, 4:-4, 4:-4], tensors(expected)[:, :, 4:-4, 4:-4], atol=1.5 / 255)
    assert len({(int(9 * x), int(9 * y)) for x, y in zip(drawn["left"], drawn["top"], strict=True)}) > 3


def test_a_shift_moves_whole_pixels_and_repeats_the_edge():
    attack = make_attack("shift_2")
    drawn = attack.draw(SEEDS.numpy(), 32)
    for place, found in enumerate(attack(IMAGES, SEEDS)):
        down, right = int(drawn["down"][place]), int(drawn["right"][place])
        assert max(abs(down), abs(right)) == 2
        padded = torch.nn.functional.pad(CLEAN[place][None], (2, 2, 2, 2), mode="replicate")[0]
        assert torch.equal(found, padded[:, 2 - down : 34 - down, 2 - right : 34 - right])


def test_a_flip_is_its_own_inverse():
    attack = make_attack("flip")
    once = attack(IMAGES, SEEDS)
    assert torch.equal(once, CLEAN.flip(-1))
    assert torch.equal(attack(once, SEEDS), CLEAN)


def test_a_quarter_turn_moves_whole_pixels():
    attack = make_attack({"kind": "rotation", "degrees": 90})
    clockwise = torch.from_numpy(attack.draw(SEEDS.numpy(), 32)["degrees"] > 0)
    expected = torch.where(clockwise[:, None, None, None], CLEAN.rot90(-1, (2, 3)), CLEAN.rot90(1, (2, 3)))
    found = attack(IMAGES, SEEDS)
    assert torch.allclose(found, expected, atol=1e-6) or torch.allclose(found, expected.flip(0), atol=1e-6)
    assert 0 < int(clockwise.sum()) < len(SEEDS)


@pytest.mark.parametrize(
    ("kind", "enhancer"),
    [("brightness", ImageEnhance.Brightness), ("contrast", ImageEnhance.Contrast), ("saturation", ImageEnhance.Color)],
)
def test_tones_are_those_of_pillow(kind, enhancer):
    """It truncates where we round, and rounds the mean grey: a level and a half apart at most."""
    found = make_attack({"kind": kind, "factor": 1.25})(IMAGES, SEEDS)
    expected = tensors([enhancer(each).enhance(1.25) for each in pictures(CLEAN)])
    assert float((found - expected).abs().max()) <= 1.6 / 255


def test_gamma_is_a_power():
    expected = ((CLEAN**1.5) * 255).round() / 255
    assert torch.allclose(make_attack("gamma_1.5")(IMAGES, SEEDS), expected, atol=1e-6)


def test_codecs_are_those_of_pillow():
    coded = []
    for each in pictures(CLEAN):
        file = BytesIO()
        each.save(file, "WEBP", quality=50)
        coded.append(Image.open(file))
    assert torch.equal(make_attack("webp_50")(IMAGES, SEEDS), tensors(coded))
    few = make_attack("palette_16")(IMAGES, SEEDS)
    assert all(len(image.flatten(1).T.unique(dim=0)) <= 16 for image in few)


def test_social_is_smaller_jpeg_and_back():
    expected = []
    for each in pictures(CLEAN):
        file = BytesIO()
        each.resize((24, 24), Image.Resampling.BICUBIC).save(file, "JPEG", quality=75)
        expected.append(Image.open(file).resize((32, 32), Image.Resampling.BICUBIC))
    assert torch.equal(make_attack("social")(IMAGES, SEEDS), tensors(expected))


def test_a_border_and_an_overlay_cover_what_they_say():
    border = make_attack("border_0.06")
    found, grey = border(IMAGES, SEEDS), border.draw(SEEDS.numpy(), 32)["grey"]
    assert torch.equal(found[:, :, 2:-2, 2:-2], CLEAN[:, :, 2:-2, 2:-2])
    assert torch.allclose(found[:, 0, 0, 0].double(), torch.from_numpy(np.rint(grey * 255) / 255))
    black = torch.zeros_like(IMAGES)
    covered = (make_attack("overlay_0.1")(black, SEEDS) > 0).any(dim=1).flatten(1).double().mean(dim=1)
    drawn = make_attack("overlay_0.1").draw(SEEDS.numpy(), 32)["grey"] > 1 / 255
    assert torch.all((covered[torch.from_numpy(drawn)] - 0.1).abs() < 0.02)


def test_a_chain_meets_one_to_three_attacks_in_the_order_drawn():
    attack = make_attack({"kind": "chain", "attacks": ["flip", "shift_1", "webp_50"]})
    images, seeds = some_images(40), some_seeds(40)
    drawn = attack.draw(seeds.numpy(), 32)
    assert set(drawn["steps"]) == {1, 2, 3}
    found = attack(images, seeds)
    for place in range(40):
        expected, seed = images[place : place + 1], seeds[place : place + 1]
        for step in range(drawn["steps"][place]):
            expected = attack.attacks[drawn[f"attack_{step + 1}"][place]](expected, seed)
        assert torch.equal(found[place], make_attack("identity")(expected, seed)[0])


def test_life_holds_every_kind_and_changes_small_images():
    names = list(make_attacks("life"))
    kinds = {"noise", "blur", "jpeg", "crop", "shift", "flip", "rotation", "scaling", "aspect", "brightness"}
    kinds |= {"contrast", "gamma", "saturation", "overlay", "border", "webp", "palette", "social", "chain"}
    assert kinds <= set(preset_specs()["life"])
    for name in names:
        if name != "identity":
            changed = (make_attack(name)(IMAGES, SEEDS) != CLEAN).flatten(1).any(dim=1)
            assert changed.double().mean() >= 0.5, name
    mixed = make_attack("life-mixture")
    assert len(set(mixed.draw(some_seeds(400).numpy(), 32)["attack"])) == len(mixed.attacks)


def test_the_degradations_of_imageattributionbench_are_those_of_its_code():
    """Nearest pixels of a half and of a quarter and back, JPEG of quality 65 and 30, blur of 3 and 5 pixels."""
    attacks = make_attacks("imageattributionbench")
    assert [*attacks][2:] == ["jpeg_65", "jpeg_30", "blur_3", "blur_5"]
    for share, name in ((0.5, "scaling_0.5_nearest"), (0.25, "scaling_0.25_nearest")):
        small = (int(32 * share),) * 2
        expected = [each.resize(small, Image.Resampling.NEAREST).resize((32, 32), Image.Resampling.NEAREST)
                    for each in pictures(CLEAN)]  # fmt: skip
        assert torch.equal(attacks[name](IMAGES, SEEDS), tensors(expected))
        assert torch.allclose(attacks[name].differentiable(CLEAN, SEEDS), tensors(expected), atol=1e-6)


def test_regeneration_is_what_a_first_stage_makes_of_the_image():
    from lightning_modules.generators import load_generator

    stage = load_generator("emoji/score-ldm").first_stage
    with torch.no_grad():
        once = ((stage.decode(stage.encode(CLEAN * 2 - 1)) + 1) / 2).clamp(0, 1)
    assert torch.allclose(make_attack("regeneration")(IMAGES, SEEDS), (once * 255).round() / 255, atol=1.01 / 255)
    assert float((once - CLEAN).abs().mean()) > 1 / 255
    with pytest.raises(ValueError, match=r"auto-encoder 'no-such'.*score-ldm"):
        make_attack({"kind": "regeneration", "autoencoder": "no-such"})


def test_bad_options_are_refused_by_name():
    for spec, message in [
        ({"kind": "crop", "kept": 1.5}, r"crop\.kept.*0\.05 to 1"),
        (
            {"kind": "scaling", "share": 0.5, "filter": "lanczos"},
            r"scaling\.filter.*'lanczos'.*nearest, bilinear, bicubic",
        ),
        ({"kind": "shift", "pixels": 1.5}, r"shift\.pixels.*whole numbers"),
        ({"kind": "chain", "attacks": []}, "chain: found no attack"),
        ({"kind": "palette", "colours": 1}, r"palette\.colours.*2 to 256"),
    ]:
        with pytest.raises(ValueError, match=message):
            make_attack(spec)

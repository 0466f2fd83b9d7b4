"""The real face is what a JPEG file written by Pillow holds; the differentiable one is close to it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from coloured_images import some_images, some_seeds
from PIL import Image

from lightning_modules.attacks import jpeg, make_attack, make_attacks
from lightning_modules.attacks.codec_table import as_markdown, compare_codecs, photographs, psnr
from lightning_modules.common.images import to_uint8


@pytest.mark.parametrize("size", [32, 45])
@pytest.mark.parametrize("subsampling", ["4:2:0", "4:4:4"])
@pytest.mark.parametrize("quality", [95, 50])
def test_real_jpeg_is_pillows_file(tmp_path, quality, subsampling, size):
    images = some_images(3, size)
    attacked = make_attack({"kind": "jpeg", "quality": quality, "subsampling": subsampling})(images, some_seeds(3))
    for image, ours in zip(images, attacked, strict=True):
        Image.fromarray(to_uint8(image).permute(1, 2, 0).numpy()).save(tmp_path / "clean.png")
        code = {"4:4:4": 0, "4:2:0": 2}[subsampling]
        Image.open(tmp_path / "clean.png").save(tmp_path / "file.jpg", quality=quality, subsampling=code)
        file = np.asarray(Image.open(tmp_path / "file.jpg"))
        assert np.array_equal(to_uint8(ours).permute(1, 2, 0).numpy(), file)


@pytest.mark.parametrize(("height", "width"), [(64, 64), (1, 1), (1, 17), (33, 15), (8, 9), (5, 128)])
def test_torchvisions_codec_gives_pillows_bytes_at_every_quality(height, width):
    if not jpeg.torchvision_agrees():
        pytest.skip("torchvision was built with another libjpeg: Pillow does it all")
    photo = to_uint8(photographs(128)[0])[:, :height, :width]
    for image in (photo, torch.randint(0, 256, photo.shape, dtype=torch.uint8)):
        for quality in range(1, 101):
            expected = jpeg.pillow_jpeg(image.permute(1, 2, 0).numpy(), quality)
            assert np.array_equal(jpeg.torchvision_jpeg(image, quality).permute(1, 2, 0).numpy(), expected), quality


def missing(image, quality):
    raise AttributeError("no operator image::decode_jpeg")


@pytest.mark.parametrize("codec", [missing, lambda image, quality: image ^ 1])
def test_without_torchvisions_codec_or_where_it_rounds_otherwise_pillow_does_it(monkeypatch, codec):
    images, seeds = some_images(4, 24), some_seeds(4)
    expected = make_attack("jpeg_60")(images, seeds)
    monkeypatch.setattr(jpeg, "torchvision_jpeg", codec)
    jpeg.torchvision_agrees.cache_clear()
    try:
        assert not jpeg.torchvision_agrees()
        assert torch.equal(make_attack("jpeg_60")(images, seeds), expected)
    finally:
        jpeg.torchvision_agrees.cache_clear()


def test_each_image_has_its_own_quality():
    images, seeds = some_images(20), some_seeds(20)
    attack = make_attack("paper-jpeg")
    qualities = attack.draw(seeds.numpy(), 32)["quality"].tolist()
    assert set(qualities) == {50, 60, 70, 80}
    for face in ("real", "differentiable"):
        whole = getattr(attack, face)(images, seeds)
        for row, quality in enumerate(qualities):
            alone = getattr(make_attack(f"jpeg_{quality}"), face)(images[row : row + 1], seeds[:1])
            assert psnr(alone, whole[row : row + 1])[0] > 55


def test_strength_moves_the_quality_from_100():
    attack, seeds = make_attack("jpeg_50"), some_seeds(3).numpy()
    drawn = [attack.at_strength(s).draw(seeds, 32)["quality"].tolist() for s in (0.1, 0.5, 1.0)]
    assert drawn == [[95] * 3, [75] * 3, [50] * 3]


def test_combination_rounds_once_before_the_encoder():
    images, seeds = some_images(4), some_seeds(4)
    strongest = {kind: make_attack(f"paper-strongest-{kind}") for kind in ("blur", "noise", "jpeg", "combination")}
    pixels, keys = to_uint8(images).double() / 255, seeds.numpy()
    before = strongest["noise"].attack_pixels(strongest["blur"].attack_pixels(pixels, keys), keys)
    by_hand = strongest["jpeg"](before.clamp(0, 1).float(), seeds)
    assert psnr(strongest["combination"](images, seeds), by_hand).min() > 45  # float32 may round another way at a half
    other_order = strongest["noise"](strongest["blur"](strongest["jpeg"](images, seeds), seeds), seeds)
    assert psnr(strongest["combination"](images, seeds), other_order).max() < 40


def test_the_table_of_codecs_says_what_training_needs():
    lines = as_markdown(compare_codecs(photographs(32))).splitlines()
    rows = [line.split("|")[1:-1] for line in lines if line.startswith("| 4:")]
    table = {(r[0].strip(), int(r[1])): [float(cell.split("±")[0]) for cell in r[2:]] for r in rows}
    assert len(table) == 12
    for (subsampling, quality), (agreement, real, smooth) in table.items():
        assert agreement > (40 if subsampling == "4:2:0" else 35)
        assert agreement > real - 3 if subsampling == "4:4:4" else agreement > real + 5
        assert abs(real - smooth) < 3, quality


def test_the_config_that_ships_makes_its_attacks_and_runs():
    attacks = make_attacks("configs/attacks/robustness.yaml")
    assert len(attacks) == 1 + 4 * 4 + 6 + 6 + 8 + 5 + 1
    images, seeds = some_images(1), some_seeds(1)
    results = {name: attack(images, seeds) for name, attack in attacks.items()}
    assert torch.equal(results["jpeg_50"], results["paper-strongest-jpeg"])
    assert not torch.equal(results["jpeg_50_444"], results["jpeg_50"])
    assert torch.equal(results["combination_1"], results["paper-strongest-combination"])

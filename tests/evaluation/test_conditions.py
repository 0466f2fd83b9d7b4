"""Conditions: names, strengths on curves and seeds as data; pixels that an attack leaves alone."""

from __future__ import annotations

import pytest
import torch

from lightning_modules.common.images import eight_bit
from lightning_modules.evaluation.conditions import Condition, changed_images, make_conditions

IMAGES = eight_bit(torch.rand(4, 3, 32, 32, generator=torch.Generator().manual_seed(0)))


def test_clean_comes_first_and_a_strength_is_that_of_the_curve():
    specs = [
        "identity", "jpeg_50", "noise_0.05", "combination_0.5", "paper-noise", "paper-strongest-noise",
        {"kind": "jpeg", "quality": 50, "subsampling": "4:4:4", "name": "jpeg_50_444"},
        {"kind": "blur", "sigma": 1.5, "name": "soft", "seed": 9},
    ]  # fmt: skip
    found = [(each.name, each.kind, each.strength, each.seed) for each in make_conditions(specs, 3)]
    assert found == [
        ("clean", "clean", None, 3),
        ("jpeg_50", "jpeg", 50.0, 3),
        ("noise_0.05", "noise", 0.05, 3),
        ("combination_0.5", "combination", 0.5, 3),
        ("paper-noise", "noise", None, 3),  # drawn anew for each image
        ("paper-strongest-noise", "noise", 0.1, 3),
        ("jpeg_50_444", "jpeg", None, 3),  # not the curve's codec
        ("soft", "blur", 1.5, 9),
    ]
    assert [each.name for each in make_conditions(None, 0)] == ["clean"]


def test_a_condition_travels_as_data():
    for condition in make_conditions(["jpeg_50", "paper-noise"], 1):
        back = Condition.from_json(condition.to_json())
        assert (back.name, back.kind, back.strength, back.seed) == (
            *(condition.name, condition.kind, condition.strength, condition.seed),
        )


@pytest.mark.parametrize(
    ("specs", "message"),
    [
        (["jpg_50"], "did you mean jpeg_50"),
        ([{"kind": "jpeg", "quality": 50, "name": "clean"}], "found an attack called 'clean'"),
        ([{"kind": "noise", "std": 0.1, "seed": -1}], "noise.seed: found -1"),
    ],
)
def test_mistakes_are_named(specs, message):
    with pytest.raises(ValueError, match=message):
        make_conditions(specs, 0)


def test_parameters_follow_from_seed_and_number_alone():
    one, other = make_conditions(["noise_0.05", {"kind": "noise", "std": 0.05, "seed": 5, "name": "n5"}], 0)[1:]
    numbers = torch.arange(4)
    attacked = one.apply(IMAGES, numbers)
    assert torch.equal(one.apply(IMAGES[2:], numbers[2:]), attacked[2:])
    assert not torch.equal(other.apply(IMAGES, numbers), attacked)
    assert make_conditions(None, 0)[0].apply(IMAGES, numbers) is IMAGES


def test_unchanged_images_are_counted():
    strong, none = make_conditions(["jpeg_10", {"kind": "blur", "sigma": 0.0, "kernel": 3, "name": "nothing"}], 0)[1:]
    numbers = torch.arange(4)
    assert changed_images(strong.apply(IMAGES, numbers), IMAGES).all()
    assert not changed_images(none.apply(IMAGES, numbers), IMAGES).any()

"""Names and dicts become attacks; what is wrong is said, with the nearest right one."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import pytest
from coloured_images import some_images, some_seeds

from lightning_modules.attacks import Attack, make_attack, make_attacks
from lightning_modules.attacks.curves import Curve
from lightning_modules.attacks.registry import ATTACKS, preset_names
from lightning_modules.reporting.strengths import attack_strength

SEEDS = some_seeds(3).numpy()


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("noise_0.05", {"std": 0.05}),
        ("noise_1e-2", {"std": 0.01}),
        ("blur_1.5", {"sigma": 1.5, "kernel": 13}),
        ("jpeg_50", {"quality": 50}),
        ("combination_0.5", {"blur.sigma": 1.0, "blur.kernel": 25, "noise.std": 0.05, "jpeg.quality": 75}),
    ],
)
def test_a_name_says_its_strength(name, parameters):
    attack = make_attack(name)
    assert attack.name == name
    assert {what: set(values.tolist()) for what, values in attack.draw(SEEDS, 32).items()} == {
        what: {value} for what, value in parameters.items()
    }


def test_a_dict_is_what_a_name_stands_for():
    spec = {"kind": "blur", "kernel": [3, 7, 9, 16, 25], "sigma": [0.5, 1.0, 1.5, 2.0], "name": "mine"}
    mine, papers = make_attack(spec), make_attack("paper-blur")
    assert mine.name == "mine"
    for what, values in papers.draw(SEEDS, 32).items():
        assert np.array_equal(mine.draw(SEEDS, 32)[what], values)
    assert spec["name"] == "mine"  # left as it was
    weaker = make_attack({"kind": "noise", "std": 0.1, "strength": 0.5})
    assert weaker.draw(SEEDS, 32)["std"].tolist() == [0.05] * 3


def test_sets_of_attacks_keep_their_order_and_hold_each_once():
    attacks = make_attacks(["identity", "paper", "paper-scaled", "grid-jpeg", "jpeg_50"])
    assert list(attacks) == [
        "identity", "paper-noise", "paper-blur", "paper-jpeg", "paper-combination",
        "paper-scaled-noise", "paper-scaled-blur", "paper-scaled-jpeg", "paper-scaled-combination",
        "jpeg_95", "jpeg_90", "jpeg_80", "jpeg_70", "jpeg_60", "jpeg_50", "jpeg_30", "jpeg_10",
    ]  # fmt: skip
    assert all(name == attack.name for name, attack in attacks.items())
    assert list(make_attacks("paper")) == list(attacks)[:5]
    with pytest.raises(ValueError, match="two attacks are called 'jpeg_50'"):
        make_attacks(["jpeg_50", {"kind": "jpeg", "quality": 40, "name": "jpeg_50"}])


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("papr-noise", "did you mean paper-noise"),
        ("paper-scalled-blur", "did you mean paper-scaled-blur"),
        ("paper", "set of attacks"),
        ("grid-noise", "set of attacks"),
        ("jpg_50", "did you mean jpeg_50"),
        ("nois_0.05", "did you mean noise_0.05"),
        ("zebra", "there are identity, flip, social, regeneration, paper-noise"),
        ("noise", r"noise_NUMBER \(standard deviation in \[0, 1\] image units\), for example noise_0.01"),
        ("blur_much", "blur_NUMBER"),
        ("jpeg_50.5", "whole numbers from 1 to 100"),
        ("jpeg_0", "from 1 to 100"),
        ("noise_-0.1", "from 0 to 1"),
        ("noise_nan", "from 0 to 1"),
        ("combination_1.5", "expected 0"),
        ({"kind": "nose", "std": 0.1}, "did you mean noise"),
        ({"std": 0.1}, "no 'kind'"),
        ({"kind": "noise", "sdt": 0.1}, "noise has no 'sdt': did you mean std"),
        ({"kind": "noise"}, "noise needs std"),
        ({"kind": "noise", "std": "strong"}, "found 'strong', expected a number or a list"),
        ({"kind": "noise", "std": {"unifrom": [0, 1]}}, "expected a number or a list"),
        ({"kind": "noise", "std": {"uniform": [0.1, 0.0]}}, "expected a number or a list"),
        ({"kind": "noise", "std": []}, "expected a number or a list"),
        ({"kind": "blur", "sigma": 1.0, "kernel": [3, 4.5]}, "found 4.5, expected whole numbers"),
        ({"kind": "blur", "sigma": 1.0, "kernel": {"uniform": [3, 9]}}, "expected a number or a list of numbers"),
        ({"kind": "blur", "sigma": 1.0, "reference_size": 0}, "whole number of pixels"),
        ({"kind": "blur", "sigma": 1.0, "scaling": "image"}, "together with a reference_size"),
        ({"kind": "blur", "sigma": 1.0, "scaling": "pixels"}, "expected 'parameters', or 'image'"),
        ({"kind": "jpeg", "quality": 50, "subsampling": "4:1:1"}, "expected one of 4:2:0, 4:4:4"),
        ({"kind": "combination", "blur": {"sigma": 1}, "noise": {"std": 0.1}}, "combination needs jpeg"),
        (
            {"kind": "combination", "blur": {"sgma": 1}, "noise": {"std": 0.1}, "jpeg": {"quality": 5}},
            "blur has no 'sgma': did you mean sigma",
        ),
        (
            {"kind": "combination", "blur": "blur_1", "noise": {"std": 0.1}, "jpeg": {"quality": 5}},
            r"combination\.blur: found 'blur_1'",
        ),
        ({"kind": "mixture", "attacks": []}, "at least one attack"),
        ({"kind": "mixture", "attacks": ["identity"], "weights": [1, 2]}, "one weight"),
        ({"kind": "mixture", "attacks": ["identity", "jpg_50"]}, "did you mean jpeg_50"),
        (3, "name or as a dict"),
    ],
)
def test_what_is_wrong_is_said(spec, message):
    with pytest.raises(ValueError, match=message):
        make_attack(spec)


def test_a_set_there_is_not_is_refused():
    with pytest.raises(ValueError, match="did you mean grid-jpeg"):
        make_attacks(["grid-jpg"])


@pytest.mark.parametrize(("text", "message"), [("kind: noise", "expected a list"), ("[a", "is not YAML")])
def test_a_file_that_lists_no_attacks_is_refused(tmp_path, text, message):
    (tmp_path / "attacks.yaml").write_text(text)
    with pytest.raises(ValueError, match=message):
        make_attacks(str(tmp_path / "attacks.yaml"))


def test_a_file_lists_attacks_for_a_set_and_within_one(tmp_path):
    (tmp_path / "attacks.yaml").write_text("[paper, {kind: jpeg, name: mine, quality: 7}]")
    listed = [*make_attacks("paper"), "mine"]
    assert list(make_attacks(str(tmp_path / "attacks.yaml"))) == listed
    assert list(make_attacks([str(tmp_path / "attacks.yaml"), "jpeg_50"])) == [*listed, "jpeg_50"]


class Darken(Attack):
    """An attack of another file, with all that belongs to it."""

    kind = "make_darker"
    presets: ClassVar = {"paper": {"factor": 0.5}}
    curve = Curve("Darkness", "factor", "factor", "factor, 0 to 1", ("0.9", "0.5"), weaker_is_larger=True)

    def __init__(self, factor):
        super().__init__()
        self.factor = factor

    def draw(self, seeds, size):
        return {}

    def at_strength(self, strength):
        return self

    def attack_pixels(self, pixels, seeds):
        return pixels * self.factor

    attack_smoothly = attack_pixels


def test_a_new_attack_is_a_class_and_a_line_of_the_table(monkeypatch):
    names = ["grid-make_darker", "paper"]
    monkeypatch.setitem(ATTACKS.members, "make_darker", f"{__name__}:Darken")
    made = make_attacks(names)
    assert list(made)[:2] == ["make_darker_0.9", "make_darker_0.5"]
    assert made["paper-make_darker"](some_images(1), some_seeds(1)).max() <= 0.5
    assert "paper-make_darker" in preset_names()
    assert attack_strength("make_darker_0.5") == ("make_darker", 0.5)
    monkeypatch.undo()
    with pytest.raises(ValueError, match="there is no grid 'grid-make_darker'"):
        make_attacks(names)

"""Settings of runs in words: what a table calls a method."""

from __future__ import annotations

import pytest

from lightning_modules.reporting.runs import flat_settings
from lightning_modules.reporting.settings_in_words import attack_in_words, in_words, nested, put_together

FREQ = {"name": "artifact", "embedding": {"name": "freq", "channels": "ycbcr"}}


def test_nested_undoes_what_flattened_settings():
    whole = {"a": {"b": [{"c": 1}, {"d": None}], "e": [1, 2]}}
    assert nested(flat_settings(whole), "a") == whole["a"]
    assert nested(flat_settings(whole), "a.e") == [1, 2]
    assert nested(flat_settings(whole), "b") is None


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ("raw", "raw"),
        ({"name": "raw"}, "raw"),
        (FREQ, "artifact (embedding freq (channels ycbcr))"),
        (["raw", FREQ], "raw + artifact (embedding freq (channels ycbcr))"),
        ({"kept": 0.5}, "kept 0.5"),
        (None, "null"),
    ],
)
def test_a_setting_goes_by_its_name(value, words):
    assert in_words(value) == words


def test_attacks_go_by_what_they_are_called():
    mixture = {"kind": "mixture", "weights": [1, 1], "attacks": ["noise_0.1", {"kind": "jpeg", "quality": [50, 80]}]}
    assert attack_in_words(mixture) == "mixture of noise_0.1, jpeg"
    assert attack_in_words([{"kind": "blur", "name": "soft", "sigma": 1}, "jpeg_50"]) == "soft, jpeg_50"
    assert attack_in_words("life-mixture") == "life-mixture"


def test_one_setting_for_a_value_and_for_a_group_in_its_place():
    runs = [flat_settings({"representation": value, "flip": True}) for value in ("raw", FREQ, ["raw", FREQ])]
    assert [each["representation"] for each in put_together(runs)] == [
        in_words("raw"),
        in_words(FREQ),
        in_words(["raw", FREQ]),
    ]
    assert all(set(each) == {"representation", "flip"} for each in put_together(runs))
    alike = [flat_settings({"representation": {"name": name}}) for name in ("raw", "artifact")]
    assert put_together(alike) == alike

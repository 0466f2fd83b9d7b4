"""Settings in groups: what cannot be run is refused, and those of older runs are found where they are today."""

from __future__ import annotations

import pytest

from lightning_modules.fingerprints.settings import (
    DecoderSettings,
    KeySettings,
    TestSettings,
    TrainingSettings,
    as_settings,
    current_settings,
)
from lightning_modules.reporting.runs import current_config, current_hyper_parameters

EARLIER = {
    "generator": "score-ldm",
    "options": {"truncation": 0.7},
    **{"bits": 8, "fit_latents": 300, "backbone": "resnet18", "bank": 5, "decoder": "hybrid", "loss": None},
    **{"decoder_options": {"sure": 3.0, "keep": [[1, 2]], "steps": 2}, "resume_decoding": "answers"},
    **{"attribution_noise": "fixed(7)", "test_attacks": ["paper"], "perceptual": None, "stream_seed": 1},
}
TODAY = {
    "generator": "score-ldm",
    "options": {"truncation": 0.7},
    "key": {"bits": 8, "fit_latents": 300},
    "training": {"backbone": "resnet18", "bank": 5},
    "decoder": {
        **{"name": "hybrid", "loss": None, "cache": "answers", "noise": "fixed(7)"},
        "options": {"stop_log_odds": 3.0, "survivors": [[1, 2]], "steps": 2},
    },
    "test_attacks": ["paper"],
    "test": {"perceptual": None},
    "stream_seed": 1,
}


def test_settings_of_before_are_found_in_their_groups_and_those_of_today_stay():
    assert current_settings(EARLIER) == current_hyper_parameters(EARLIER) == TODAY
    assert current_settings(TODAY) == current_hyper_parameters(TODAY) == TODAY
    of_others = {"generator": "x", "bits": 3}
    assert current_hyper_parameters(of_others) == of_others


def test_configs_of_other_modules_stay_as_they_are():
    old = {"seed_everything": 0, "model": {"class_path": "a.LatentFingerprint", "init_args": EARLIER}}
    assert current_config(old)["model"]["init_args"] == TODAY
    assert current_config(old)["seed_everything"] == 0
    other = {"model": {"class_path": "a.Attributor", "init_args": EARLIER}}
    for config in (other, {"model": None}, ["a"], None):
        assert current_config(config) is config


@pytest.mark.parametrize(
    ("make", "settings", "message"),
    [
        (KeySettings, {"bits": 0}, "found key.bits 0, expected at least 1"),
        (KeySettings, {"fit_latents": 1}, "found key.fit_latents 1, expected at least 2"),
        (KeySettings, {"sigma": 0.0}, "found sigma 0.0, expected a strength above 0"),
        (KeySettings, {"window": 40}, "found key.window 40 without key.secret"),
        (KeySettings, {"secret": "file", "layout": "per_channel"}, "found key.secret with key.layout per_channel"),
        (KeySettings, {"layout": "flatt"}, "found layout 'flatt'; did you mean flat"),
        (KeySettings, {"latent_prior": "gauss"}, "found latent prior 'gauss'; did you mean gaussian"),
        (
            TrainingSettings,
            {"unmarked_images": 3},
            "found training.unmarked_images 3, expected at least 4, better 1,000",
        ),
        (TrainingSettings, {"unmarked_images": -1}, "found training.unmarked_images -1, expected at least 4"),
        (TrainingSettings, {"learning_rate": float("nan")}, "found training.learning_rate nan, expected at least 0"),
    ],
)
def test_settings_that_cannot_be_run_are_refused(make, settings, message):
    with pytest.raises(ValueError, match=message):
        make(**settings)


def test_a_group_is_taken_as_it_is_or_by_its_values():
    assert as_settings(TestSettings, {"features": "fashion_cnn"}) == TestSettings(features="fashion_cnn")
    assert str(as_settings(DecoderSettings, DecoderSettings("paper", {"starts": 3}))) == "paper (starts 3)"
    with pytest.raises(ValueError, match="found 'hybrid', expected DecoderSettings, or its values by name"):
        as_settings(DecoderSettings, "hybrid")

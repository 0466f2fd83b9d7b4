"""Label spaces that an attributor shares with other data: classes, probabilities, what is left out."""

from __future__ import annotations

import pytest
import torch

from lightning_modules.metrics.label_spaces import FAMILY, SHARED_MODEL, make_label_space

TRAINED = ["flow-glow", "gan-dcgan", "gan-wgan", "real-a", "real-b", "vae-nvae"]
TESTED = ["gan-dcgan", "gan-style", "real-c", "score-ddpm", "vae-nvae"]


def test_shared_models():
    space = make_label_space(SHARED_MODEL, TRAINED, TESTED)
    assert space.classes == ["gan-dcgan", "real", "vae-nvae"]
    assert space.labels == {"gan-dcgan": 0, "real-c": 1, "vae-nvae": 2}
    told = space.to_json()
    assert told["left_out"] == ["gan-style", "score-ddpm"]
    assert told["never_answered"] == ["flow-glow", "gan-wgan"]


def test_families():
    space = make_label_space(FAMILY, TRAINED, TESTED)
    assert space.classes == ["gan", "real", "vae"]
    assert space.labels == {"gan-dcgan": 0, "gan-style": 0, "real-c": 1, "vae-nvae": 2}
    assert space.to_json()["left_out"] == ["score-ddpm"]
    assert space.to_json()["never_answered"] == ["flow-glow"]


@pytest.mark.parametrize(("name", "members"), [(FAMILY, [[1, 2], [3, 4], [5]]), (SHARED_MODEL, [[1], [3, 4], [5]])])
def test_answers_are_sums_of_probabilities_among_the_classes_of_both(name, members):
    logits = torch.randn(2, 7, len(TRAINED), generator=torch.Generator().manual_seed(0)).double() * 5
    probabilities = logits.softmax(dim=-1)
    summed = torch.stack([probabilities[..., places].sum(dim=-1) for places in members], dim=-1)
    expected = summed / summed.sum(dim=-1, keepdim=True)
    space = make_label_space(name, TRAINED, TESTED)
    torch.testing.assert_close(space.answers(logits).softmax(dim=-1), expected)


def test_what_cannot_be_compared_is_refused():
    with pytest.raises(ValueError, match=r"1 classes in common \(real\).*--label_space family joins"):
        make_label_space(SHARED_MODEL, ["gan-a", "real-x"], ["gan-b", "real-y"])
    assert make_label_space(FAMILY, ["gan-a", "real-x"], ["gan-b", "real-y"]).classes == ["gan", "real"]
    with pytest.raises(ValueError, match="0 classes in common"):
        make_label_space(FAMILY, ["gan-a", "vae-x"], ["flow-b", "score-y"])
    with pytest.raises(ValueError, match="found label_space 'familiy'; did you mean family"):
        make_label_space("familiy", TRAINED, TESTED)
    with pytest.raises(ValueError, match="found 4 logits, expected 6"):
        make_label_space(FAMILY, TRAINED, TESTED).answers(torch.zeros(1, 4))

"""Parameters follow the distributions that the presets state, and belong to (seed, index, attack) alone."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from hashlib import blake2b

import numpy as np
import pytest
from coloured_images import some_seeds
from scipy.stats import chisquare, kstest

from lightning_modules.attacks import image_seeds, make_attack
from lightning_modules.attacks.noise_field import noise_field
from lightning_modules.common.random_streams import draw_uniforms, draw_words, stream_of

SEEDS = some_seeds(4000, seed=17).numpy()


def frequencies_are_equal(values, expected):
    found, counts = np.unique(values, return_counts=True)
    assert found.tolist() == expected
    assert chisquare(counts).pvalue > 1e-3


def test_paper_noise_is_uniform():
    std = make_attack("paper-noise").draw(SEEDS, 32)["std"]
    assert kstest(std, "uniform", args=(0.0, 0.1)).pvalue > 1e-3


def test_paper_blur_draws_all_kernels_and_sigmas_independently():
    drawn = make_attack("paper-blur").draw(SEEDS, 256)
    frequencies_are_equal(drawn["kernel"], [3, 7, 9, 16, 25])
    frequencies_are_equal(drawn["sigma"], [0.5, 1.0, 1.5, 2.0])
    pairs = np.unique(np.stack([drawn["kernel"], drawn["sigma"]]), axis=1, return_counts=True)[1]
    assert len(pairs) == 20
    assert chisquare(pairs).pvalue > 1e-3


def test_paper_jpeg_draws_all_qualities():
    frequencies_are_equal(make_attack("paper-jpeg").draw(SEEDS, 32)["quality"], [50, 60, 70, 80])


def test_strongest_is_fixed():
    drawn = make_attack("paper-strongest-combination").draw(SEEDS[:50], 32)
    assert {name: set(values.tolist()) for name, values in drawn.items()} == {
        "blur.sigma": {2.0}, "blur.kernel": {25}, "noise.std": {0.1}, "jpeg.quality": {50},
    }  # fmt: skip


def test_combination_draws_what_its_stages_draw_alone():
    drawn = make_attack("paper-combination").draw(SEEDS[:50], 32)
    for kind in ("noise", "blur", "jpeg"):
        for name, values in make_attack(f"paper-{kind}").draw(SEEDS[:50], 32).items():
            assert np.array_equal(drawn[f"{kind}.{name}"], values)


@pytest.mark.parametrize(
    ("size", "kernels", "sigmas"),
    [
        (32, [3], [0.0625, 0.125, 0.1875, 0.25]),
        (64, [3, 5, 7], [0.125, 0.25, 0.375, 0.5]),  # 0.75, 1.75, 2.25 -> 3; 4 is as near to 3 as to 5 -> 5; 6.25 -> 7
        (256, [3, 7, 9, 16, 25], [0.5, 1.0, 1.5, 2.0]),
        (512, [7, 15, 19, 33, 51], [1.0, 2.0, 3.0, 4.0]),  # 6, 14, 18, 32, 50: ties go up
    ],
)
def test_scaled_blur_follows_the_image(size, kernels, sigmas):
    drawn = make_attack("paper-scaled-blur").draw(SEEDS, size)
    assert np.unique(drawn["kernel"]).tolist() == kernels
    assert np.unique(drawn["sigma"]).tolist() == sigmas


def test_mixture_follows_its_weights():
    drawn = make_attack("paper-mixture").draw(SEEDS, 32)["attack"]
    frequencies_are_equal(drawn, [0, 1, 2, 3, 4])
    weighted = make_attack({"kind": "mixture", "attacks": ["identity", "jpeg_50", "jpeg_80"], "weights": [1, 0, 3]})
    counts = np.bincount(weighted.draw(SEEDS, 32)["attack"], minlength=3)
    assert counts[1] == 0
    assert chisquare(counts[[0, 2]], [1000, 3000]).pvalue > 1e-3


def test_attacks_have_streams_of_their_own():
    u = np.concatenate([draw_uniforms(SEEDS, kind, 1) for kind in ("noise", "blur", "jpeg", "mixture")], axis=1)
    assert np.abs(np.corrcoef(u.T) - np.eye(4)).max() < 0.06


def test_image_seeds_are_one_to_one_and_belong_to_seed_and_index():
    seeds = [image_seeds(seed, range(5000)) for seed in (0, 1, 2**32, 2**64 - 1)]
    assert len(np.unique(np.concatenate(seeds))) == 20_000
    assert image_seeds(1, [4321]).tolist() == seeds[1][4321:4322].tolist()
    bits = np.unpackbits(seeds[0].numpy().view(np.uint8)).reshape(-1, 64).mean(0)
    assert np.abs(bits - 0.5).max() < 0.04  # every bit depends on a small index


def test_splitmix_agrees_with_its_definition():
    def reference(z):
        z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
        z = (z ^ (z >> 27)) * 0x94D049BB133111EB % 2**64
        return z ^ (z >> 31)

    start = reference((9 + 0x9E3779B97F4A7C15) % 2**64)
    assert image_seeds(9, [0, 7]).numpy().view(np.uint64).tolist() == [reference((i + start) % 2**64) for i in (0, 7)]
    assert reference(0x9E3779B97F4A7C15) == 0xE220A8397B1DCDAF  # first output of SplitMix64 seeded with 0


@pytest.mark.parametrize(("seed", "index"), [(-1, [0]), (2**64, [0]), (0, [3, -1])])
def test_impossible_seeds_are_refused(seed, index):
    with pytest.raises(ValueError, match="expected"):
        image_seeds(seed, index)


def test_draws_stay_what_they_were():  # results of a published experiment must come back in a later version
    seeds = image_seeds(7, [0, 1, 2])
    assert seeds.tolist() == [8409816773569330625, 4369894418777901244, 8708118445994454870]
    drawn = make_attack("paper-combination").draw(seeds.numpy(), 32)
    assert drawn["blur.sigma"].tolist() == [0.5, 1.0, 2.0]
    assert drawn["blur.kernel"].tolist() == [16, 16, 9]
    assert drawn["jpeg.quality"].tolist() == [80, 80, 60]
    assert drawn["noise.std"].tolist() == pytest.approx([0.07409424796224834, 0.0390880566910397, 0.001431471695122977])
    field = noise_field(seeds.numpy(), (2,), np.ones(3))
    assert field[0].tolist() == pytest.approx([0.05012712, -1.09619653], rel=1e-6)


def test_uniforms_are_those_of_the_keyed_generator():
    second = int.from_bytes(blake2b(b"attack blur", digest_size=8).digest(), "little")
    expected = [stream_of(int(seed), second).random(2) for seed in SEEDS[:5].view(np.uint64)]
    assert np.array_equal(draw_uniforms(SEEDS[:5], "blur", 2), expected)
    assert draw_uniforms(SEEDS[:0], "blur", 2).shape == (0, 2)


def test_words_belong_to_seed_and_purpose_and_every_bit_is_fair():
    words = draw_words(SEEDS, "a purpose", 12)
    assert np.array_equal(draw_words(SEEDS[7:9], "a purpose", 5), words[7:9, :5])
    others = np.concatenate([words, draw_words(SEEDS, "another purpose", 12)])
    assert len(np.unique(others)) == others.size
    bits = np.unpackbits(words.view(np.uint8)).reshape(-1, 64).mean(0)
    assert np.abs(bits - 0.5).max() < 4.5 * 0.5 / np.sqrt(words.size)
    assert draw_words(SEEDS[:0], "a purpose", 3).shape == (0, 3)


def test_streams_of_threads_do_not_meet():
    alone = draw_uniforms(SEEDS, "blur", 4)
    with ThreadPoolExecutor(4) as threads:
        together = list(threads.map(lambda _: draw_uniforms(SEEDS, "blur", 4), range(8)))
    assert all(np.array_equal(found, alone) for found in together)

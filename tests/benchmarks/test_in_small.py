"""The benchmarks' fixtures and contenders in small, so that they run whenever they are asked for. Nothing is timed."""

from __future__ import annotations

import itertools
import json

import keys_as_code_words
import numpy as np
import pytest
import test_artifact_stream as artifact_stream
import test_attack_speed as attack_speed
import test_evaluation_fold as evaluation_fold
import test_key_decoders as key_decoders
import test_long_keys as long_keys
import test_nearest_neighbour as nearest_neighbour
import test_pairwise_frechet as pairwise_frechet
import test_threats as threats
import test_verdict_speed as verdict_speed
import torch
from photographs import HELD_OUT, REFERENCES, patches
from PIL import Image

from lightning_modules.attacks import make_attack
from lightning_modules.attacks.codec_table import psnr
from lightning_modules.fingerprints.decoders.amortised import AmortisedDecoder
from lightning_modules.fingerprints.settings import DecoderSettings


@pytest.mark.parametrize("count", [23, 35])
def test_any_number_of_generated_queries(count):
    images = nearest_neighbour.generated_images(count)
    assert images.shape == (count, 3, 32, 32)
    assert torch.equal((images * 255).round() / 255, images)
    assert len(images.unique(dim=0)) == count


def test_contenders_find_the_same_neighbours(tmp_path):
    reals = nearest_neighbour.generated_images(600)[:, :, ::2, ::2].mul(255).to(torch.uint8)
    queries = reals[::40].float() / 255 * 0.9
    manifold = nearest_neighbour.build(tmp_path / "m", reals[100:])
    references = reals[100:].flatten(1).float() / 255
    found = manifold.nearest(queries).index[:, 0]
    flat = queries.flatten(1)
    plain = nearest_neighbour.plain_product(flat, references, references.square().sum(1), tile=128)
    theirs = torch.from_numpy(nearest_neighbour.faiss_index(references).search(flat.numpy(), 1)[1][:, 0])
    assert (plain == found).float().mean() > 0.8  # ties and float32 rounding apart
    assert (theirs == found).float().mean() > 0.8
    exact = (reals[::40].float() / 255).double()
    squared, nearest = nearest_neighbour.float64_truth(exact.float(), reals[100:])
    again = manifold.nearest(exact.float())
    assert torch.equal(again.index[:, 0], nearest)
    assert torch.equal(again.distance[:, 0], squared.sqrt() * (1 / 255))


@pytest.fixture
def wallpapers(tmp_path):
    """A folder laid out as the package's, with pictures of our own."""
    generator = np.random.default_rng(0)
    for name in REFERENCES + HELD_OUT:
        images = tmp_path / name / "contents" / "images"
        images.mkdir(parents=True)
        coarse = generator.integers(0, 256, (9, 12, 3), dtype=np.uint8)
        Image.fromarray(coarse).resize((160, 120), Image.Resampling.BICUBIC).save(images / "160x120.png")
    return tmp_path


def test_photographs_are_compared_for_every_kind_of_query(wallpapers, tmp_path):
    references = patches(REFERENCES, 16, 700, seed=0, folder=wallpapers)
    held_out = patches(HELD_OUT, 16, 20, seed=1, folder=wallpapers)
    assert references.shape == (700, 3, 16, 16)
    manifold = nearest_neighbour.build(tmp_path / "m", references)
    ratios = nearest_neighbour.compare_on_photographs(manifold, references, held_out, rounds=1, checked=20)
    assert set(ratios) == {"held-out", "half resolution", "JPEG 20"}


def test_verdicts_are_timed_and_memory_is_bounded():
    seconds, most = verdict_speed.verdicts(20_000, 64, 3, readings=4)
    assert len(seconds) == 3
    assert most < 2e6


def test_registries_are_timed(tmp_path):
    assert set(verdict_speed.registry(tmp_path, 300)) == {"create", "load", "export", "import"}


def test_missing_photographs_name_the_package(tmp_path):
    with pytest.raises(pytest.fail.Exception, match=r"apt-get install .*plasma-workspace-wallpapers"):
        patches(REFERENCES, 16, 10, seed=0, folder=tmp_path)


def test_contenders_for_frechet_distances_agree(monkeypatch):
    monkeypatch.setattr(pairwise_frechet, "DIMENSIONS", 24)
    monkeypatch.setattr(pairwise_frechet, "CLASSES", 3)
    samples = pairwise_frechet.features_of_classes(60)
    found = pairwise_frechet.ours(samples)
    for contender in (
        pairwise_frechet.pairs_by_torchmetrics,
        pairwise_frechet.kept_by_torchmetrics,
        pairwise_frechet.formula_of_torchmetrics,
    ):
        torch.testing.assert_close(contender(samples), found, rtol=1e-6, atol=0)


def test_key_decoders_are_measured_and_printed(capsys):
    module = key_decoders.load_trained(key_decoders.CHECKPOINT)
    marked, images = key_decoders.marked_images(module, 2)
    decoders = key_decoders.decoders_of(module, "pixels")
    assert set(decoders) == set(key_decoders.ORDER)
    quick = {"paper": decoders["amortised"], "amortised": decoders["amortised"]}  # the paper's takes minutes
    tallies = key_decoders.measure(quick, images, marked.keys)
    key_decoders.print_table(tallies, marked.keys.shape[1])
    assert all(len(tally.seconds) == 2 for tally in tallies.values())
    assert "amortised" in capsys.readouterr().out


@pytest.mark.parametrize("implementation", list(attack_speed.WANTED))
@pytest.mark.parametrize("name", attack_speed.NAMES)
def test_attacks_on_a_batch_and_singly_are_the_same(name, implementation):
    runs = attack_speed.contenders(make_attack(name), implementation, *attack_speed.inputs(5, 32))
    batch, singly = runs["batch"](), runs["singly"]()
    if implementation == "real":
        assert torch.equal(batch, singly)
    else:  # last bits may differ, which a smoothed rounding of JPEG can amplify
        assert psnr(batch, singly).min() > 55


def test_an_evaluation_is_folded(tmp_path):
    evaluation_fold.write_evaluation(tmp_path, 100, 4, 16)
    assert evaluation_fold.fold(tmp_path)[1] > 0
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    assert metrics["test/jpeg_50/accuracy"]["n"] == 100
    assert metrics["test/accuracy"]["value"] > metrics["test/jpeg_50/accuracy"]["value"]
    assert len((tmp_path / "rows.jsonl").read_text().splitlines()) == 200
    assert "left_out" not in metrics["test/fdr"]


@pytest.mark.parametrize("name", ["rgb", "freq", "sl", "ssl"])
def test_artifacts_of_a_stream_are_exact(name, tmp_path):
    grown, _, error = artifact_stream.stream(tmp_path, artifact_stream.spaces(tmp_path)[name], 60, 90, batch=20)
    assert grown >= 0
    assert error < 1e-5


def test_the_frechet_distances_of_a_large_evaluation_are_those_of_as_many_images_of_each_source(tmp_path, monkeypatch):
    monkeypatch.setattr("lightning_modules.evaluation.attribution._FDR_IMAGES", 80)
    evaluation_fold.write_evaluation(tmp_path, 640, 4, 64)  # sources take turns
    evaluation_fold.fold(tmp_path)
    fdr = json.loads((tmp_path / "metrics.json").read_text())["test/fdr"]
    assert (fdr["n"], fdr["left_out"], fdr["n_per_half"]) == (80, 560, 5)


def test_attackers_on_a_few_images(monkeypatch):
    monkeypatch.setattr(threats, "STEPS", 2)
    monkeypatch.setattr(threats, "PUSHES", 3)
    scene = threats.scene(threats.TRAINED / "ldm64", users=20, victims=2, images=2, fitted=64)
    network = AmortisedDecoder(scene.module.network)
    monkeypatch.setattr(scene.module, "key_decoder", lambda: network)
    forged = threats.read_and_written(scene)
    assert forged["fingerprint and decoder, key read off 4"].endswith("2 of 2 name the victim, 0 another")
    forged = threats.copied_from_images(scene, lambda scene, fingerprint: network)
    assert forged["principal axes: the victims' own images"] == "2 of 2 name the victim, 0 another"
    assert forged["secret axes: the victims' own images"] == "0 of 2 name the victim, 0 another"  # read by other axes
    removed = threats.removed(scene, scene.module.network)
    assert removed["untouched"] == "2 of 2 name the victim, 0 another"
    assert removed["key axes overwritten with another image's"].startswith("0 of 2 name the victim, 0 another")
    assert len(removed) == 19


def test_named_users_under_two_attacks():
    found = long_keys.shares(long_keys.LDM64, ("clean", "flip", "flip + crop_0.9"), keys=2)
    assert found["clean"].together == found["flip"].together == 1.0
    assert found["clean"].network.few == found["clean"].as_it_is.few == 1.0
    assert found["flip"].network.few == 0.0
    assert found["flip"].readings.few > 0.5  # put back
    assert found["flip"].wrong_few == 0.0
    assert found["flip + crop_0.9"].readings.few > 0.5
    colour = long_keys.shares(long_keys.LDM64_EMOJI, ("clean",), keys=1, decoder=DecoderSettings())
    assert colour["clean"].as_it_is[1:] == (1.0, 1.0)
    sizes = long_keys.bits_from_sizes(long_keys.LDM64, (32, 64), keys=2)
    assert sizes[32] > 0.85
    assert sizes[64] > 0.85
    found = long_keys.named_by_search(long_keys.STYLEGAN2_64, ("clean",), images=4)
    begun = long_keys.before_training(long_keys.LDM64, keys=4)
    assert begun["encoder, corrected"] > begun["encoder"]
    registered = {"decoder": long_keys.REGISTERED_HYBRID}
    mirrored = long_keys.named_by_search(long_keys.LDM64, ("flip",), images=2, **registered)
    assert mirrored["flip"] == (1.0, 1.0, 1.0)
    assert found["clean"][0] > 0.87  # one pass of the network reads 78 %, and a search in twenty finds another latent
    frames = long_keys.named_in_frames(long_keys.LDM64, (4,), ("black",), keys=2)
    assert frames["black, 4 px"] > 0.5


def test_words_of_a_code_are_decoded_as_by_trying_all():
    generator, code = np.random.default_rng(0), keys_as_code_words.random_code(6, 14, 1)
    messages = np.array(list(itertools.product((0, 1), repeat=6)), dtype=np.uint8)
    words = messages @ code % 2
    for _ in range(50):
        log_odds = generator.normal(size=14) + 1.5 * (2.0 * words[generator.integers(64)] - 1.0)
        likeliest = words[np.argmax(words @ log_odds)]
        assert np.array_equal(keys_as_code_words.decode(log_odds, code), likeliest)

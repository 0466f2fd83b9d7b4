"""Networks of the generator's own encoder: what they begin with, what a correction does, what travels."""

from __future__ import annotations

import copy

import pytest
import torch
from small_latent_diffusion import BITS, fingerprint_of, small_latent_diffusion

from lightning_modules.common.random_streams import seeded_keys
from lightning_modules.fingerprints.decoders.corrected_network import CorrectedNetwork, EncoderNetwork, LatentSpace
from lightning_modules.fingerprints.decoders.hybrid import EncoderStarts
from lightning_modules.fingerprints.decoders.key_network import CalibratedNetwork
from lightning_modules.fingerprints.decoders.networks import build_network, take_network
from lightning_modules.fingerprints.fingerprint import make_fingerprint
from lightning_modules.fingerprints.layouts import place_key
from lightning_modules.fingerprints.settings import KeySettings, TrainingSettings
from lightning_modules.generators.stylegan2 import StyleGAN2Generator

AXES, COUNT = 44, 6


class Told(CalibratedNetwork):
    """An answer that is given."""

    def __init__(self, logits, alpha):
        super().__init__(logits.shape[1], alpha.shape[1])
        self.given = logits, alpha

    def answer(self, images):
        return self.given


@pytest.fixture(scope="module", params=["vq", "kl"])
def scene(request):
    generator, fingerprint = small_latent_diffusion(request.param), fingerprint_of(centred=True)
    keys = seeded_keys(COUNT, BITS, 3)
    alpha = torch.randn(COUNT, AXES, generator=torch.Generator().manual_seed(2))
    latents = fingerprint.embed(fingerprint.mean + (alpha * fingerprint.other_deviation) @ fingerprint.other_axes, keys)
    return generator, fingerprint, keys, alpha, latents


def sure(keys):
    return 40.0 * (2.0 * keys.float() - 1.0)


@pytest.mark.parametrize("centred", [False, True])
@pytest.mark.parametrize("layout", ["flat", "repeated"])
def test_key_and_alpha_are_coordinates_of_marked_latents(centred, layout):
    scale = torch.linspace(2.0, 0.3, 48)
    natural = torch.randn(600, 48, generator=torch.Generator().manual_seed(1)) * scale
    placed = place_key(lambda: natural.split(200), 48, BITS, 0, layout)
    fingerprint = make_fingerprint(placed, 0.8, 0, layout, "hash", "g", centred=centred)
    keys, others = seeded_keys(COUNT, BITS, 3), len(fingerprint.other_axes)
    marked = fingerprint.embed(natural[:COUNT], keys)
    alpha = (marked - fingerprint.mean) @ fingerprint.other_axes.T / fingerprint.other_deviation
    space = LatentSpace(BITS, others, 48)
    space.take(fingerprint)
    assert torch.allclose(space.latents(2.0 * keys.float() - 1.0, alpha), marked, atol=1e-5)
    read = (marked - space.mean) @ space.readings().T
    assert torch.allclose(read[:, :BITS], 3.0 * (2.0 * keys.float() - 1.0), atol=1e-4)
    assert torch.allclose(read[:, BITS:], alpha, atol=1e-4)


def test_a_start_that_was_trained_before_looks_through_readings_in_place_of_its_corrections(scene):
    generator, _, keys, alpha, _ = scene
    told = Told(sure(keys), alpha)
    assert CorrectedNetwork(told, 1, generator, frozen=True).quicker is told
    together = CorrectedNetwork(told, 1, generator)
    assert together.quicker is together
    assert told.quicker is told


def test_an_encoder_begins_as_a_linear_reading_of_its_latents(scene):
    generator, fingerprint, _, _, latents = scene
    images = generator.synthesize(latents).clamp(0.0, 1.0)
    network = EncoderNetwork(BITS, AXES, generator).eval()
    network.take_fingerprint(fingerprint, anew=True)
    logits, alpha = network(images)
    start = EncoderStarts(generator, fingerprint).starts(images)
    assert torch.equal(logits > 0, start.logits > 0)
    assert torch.allclose(alpha, start.alpha, atol=1e-3)


def test_a_right_answer_is_not_corrected(scene):
    generator, fingerprint, keys, alpha, latents = scene
    network = CorrectedNetwork(Told(sure(keys), alpha), 2, generator).eval()
    network.take_fingerprint(fingerprint, anew=True)
    logits, mended = network(generator.synthesize_codes(latents).clamp(0.0, 1.0))
    assert torch.allclose(logits, sure(keys), atol=1e-3)
    assert torch.allclose(mended, alpha, atol=1e-3)


def test_a_correction_goes_by_the_difference_of_encoded_images(scene):
    """Untrained, it adds half of what the encoder makes of the image less that of the answer's image."""
    generator, fingerprint, keys, alpha, latents = scene
    images = generator.synthesize_codes(latents).clamp(0.0, 1.0)
    wrong = sure(~keys)
    network = CorrectedNetwork(Told(wrong, alpha), 1, generator).eval()
    network.take_fingerprint(fingerprint, anew=True)
    logits, _ = network(images)
    made = generator.synthesize_codes(fingerprint.embed(latents, ~keys)).clamp(0.0, 1.0)
    difference = 0.5 * (generator.encode(images) - generator.encode(made))
    expected = wrong + difference @ fingerprint.key_axes[0].T * 3.0 / (fingerprint.sigma / 2.0)
    assert torch.allclose(logits, expected, atol=1e-3)


def test_gradients_of_images_are_those_of_the_whole_network(scene):
    """An attack by gradients must not pass by the images that corrections make."""
    generator, fingerprint, _, _, latents = scene
    images = (0.1 + 0.8 * generator.synthesize(latents).clamp(0.0, 1.0)).double()
    generator = copy.deepcopy(generator).double()
    network = CorrectedNetwork(EncoderNetwork(BITS, AXES, generator), 2, generator).double().eval()
    network.take_fingerprint(fingerprint, anew=True)
    weights = torch.randn(COUNT, BITS, dtype=torch.double, generator=torch.Generator().manual_seed(5))
    direction = torch.randn(images.shape, dtype=torch.double, generator=torch.Generator().manual_seed(6))

    def score(step):
        return (weights * network(images + step * direction)[0]).sum()

    step = torch.zeros((), dtype=torch.double, requires_grad=True)
    (slope,) = torch.autograd.grad(score(step), step)
    with torch.no_grad():
        difference = (score(1e-6) - score(-1e-6)) / 2e-6
    assert float(slope) == pytest.approx(float(difference), rel=1e-3)


def test_corrections_alone_learn_where_the_start_is_another_trainings(scene, tmp_path):
    generator, fingerprint, *_ = scene
    key = KeySettings(bits=BITS, shift=-BITS)
    plain = TrainingSettings(backbone="test_resnet", stem="small")
    first = build_network(key, plain, generator, fingerprint).eval()
    first.log_temperature.fill_(0.7)
    torch.save({"state_dict": {f"network.{name}": value for name, value in first.state_dict().items()}}, tmp_path / "a")
    settings = TrainingSettings(backbone="test_resnet", stem="small", corrections=1, start=str(tmp_path / "a"))
    network = build_network(key, settings, generator, fingerprint)
    assert take_network(network, tmp_path / "a") is None
    network.take_fingerprint(fingerprint, anew=True)
    images = torch.rand(4, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    begun, expected = network.train().start.answer(images), first(images)
    assert torch.allclose(begun[0], expected[0], atol=1e-5)  # calibrated, in evaluation mode
    assert torch.allclose(begun[1], expected[1], atol=1e-5)
    logits, alpha = network(images)
    (logits.square().sum() + alpha.square().sum()).backward()
    learning = {name for name, value in network.named_parameters() if value.grad is not None}
    assert learning == {name for name, _ in network.named_parameters() if not name.startswith("start.")}
    other = build_network(key, settings, generator, fingerprint).eval()
    other.load_state_dict(network.state_dict())
    assert torch.equal(other(images)[0], network.eval()(images)[0])
    torch.save({"state_dict": {f"network.{name}": value for name, value in other.state_dict().items()}}, tmp_path / "b")
    without = build_network(key, plain, generator, fingerprint)
    assert take_network(without, tmp_path / "b") is None
    assert torch.equal(without.eval()(images)[0], begun[0])
    assert not any("generator" in name or "decoder" in name for name in network.state_dict())


def test_longer_keys_begin_with_all_but_the_heads_and_frozen_starts_must_fit(scene, tmp_path):
    generator, *_ = scene

    def made(bits, **settings):
        torch.manual_seed(bits)
        return build_network(KeySettings(bits=bits, shift=-bits), TrainingSettings(**settings), generator, None)

    first = made(BITS, backbone="encoder")
    with torch.no_grad():
        first.encoder.encoder.conv_in.weight.add_(1.0)
    torch.save({"state_dict": {f"network.{name}": value for name, value in first.state_dict().items()}}, tmp_path / "a")
    longer = made(6, backbone="encoder")
    assert "begins anew" in take_network(longer, tmp_path / "a")
    for name, value in longer.named_parameters():
        assert name.startswith("heads.") or torch.equal(value, first.get_parameter(name)), name
    with pytest.raises(ValueError, match="expected one that reads these 6 bits"):
        take_network(made(6, backbone="encoder", corrections=1, start=str(tmp_path / "a")), tmp_path / "a")


def test_an_encoder_takes_no_weights_of_timm(scene):
    with pytest.raises(ValueError, match=r"found training\.weights imagenet for the backbone encoder, expected none"):
        build_network(KeySettings(bits=BITS), TrainingSettings(backbone="encoder", weights="imagenet"), scene[0], None)


@pytest.mark.parametrize(
    ("settings", "found"),
    [({"backbone": "encoder"}, "training.backbone encoder"), ({"corrections": 2}, "training.corrections 2")],
)
def test_a_generator_without_an_encoder_is_refused(settings, found):
    generator = StyleGAN2Generator(16, 12, 12, 2, [8, 8, 8])
    with pytest.raises(ValueError, match=f"found {found} and a generator without an encoder, expected a latent"):
        build_network(KeySettings(bits=BITS), TrainingSettings(**settings), generator, None)

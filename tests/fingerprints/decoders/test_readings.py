"""Of several readings of an image the surest one, or the one that explains it, is the answer; no key is asked."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from lightning_modules.fingerprints.decoders import amortised
from lightning_modules.fingerprints.decoders.amortised import (
    SHOWN,
    SHOWN_AROUND,
    AmortisedDecoder,
    AmortisedSettings,
    likely_ground,
)
from lightning_modules.fingerprints.decoders.base import DecoderParts
from lightning_modules.fingerprints.decoders.post_processing import FILTERS
from lightning_modules.fingerprints.decoders.registrations import (
    FINE,
    MARGIN,
    MIRRORED,
    REFINEMENTS,
    REGISTRATIONS,
    Registration,
    certainty,
    plausibility,
)

TRIED, ALL = 90, 110
"""Readings by all registrations but `fine`, and by `fine` as well."""


class Network(torch.nn.Module):
    """What the tests' networks have of `CalibratedNetwork` beside `forward`."""

    @property
    def quicker(self):
        return self


class Template(Network):
    """Reads 32 bits, and is sure of them where an image lies as it was made."""

    def __init__(self, pattern, keys):
        super().__init__()
        self.pattern, self.keys = pattern, keys

    def forward(self, images):
        inside = (slice(None), slice(None), slice(6, 26), slice(6, 26))  # edges are lost where an image is cropped
        error = (images - self.pattern)[inside].square().flatten(1).mean(dim=1, keepdim=True)
        logits = (2.0 * self.keys[: len(images)] - 1.0) * (4.0 - 3000.0 * error).clamp_min(0.01)
        return logits, torch.zeros(len(images), 3)


@pytest.fixture
def scene():
    coarse = torch.rand(1, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    pattern = torch.nn.functional.interpolate(coarse, size=(32, 32), mode="bicubic").clamp(0, 1)
    keys = (torch.arange(32) % 3 == 0).float().expand(4, -1)
    return pattern.expand(4, -1, -1, -1), Template(pattern, keys), keys > 0.5


def test_decoders_put_images_back_onto_the_image_of_the_mean_latent(scene):
    images, network, _ = scene
    seen = []

    class Watched(Network):
        def forward(self, images):
            seen.append(images)
            return network(images)

    fingerprint = SimpleNamespace(mean=torch.full((5,), 0.25))
    generator = SimpleNamespace(synthesize=lambda latents: latents[:, :1, None, None].expand(-1, 3, 32, 32))
    parts = DecoderParts(generator, fingerprint, Watched(), None)
    AmortisedDecoder.build(parts, AmortisedSettings(registrations=["shift", FINE])).decode(images)
    assert len(seen) == 1 + 8 + len(REFINEMENTS)
    shown = torch.stack(seen)[1:]
    assert bool(
        (shown[:16] == 0.25).flatten(1).any(dim=1).all()
    )  # by a pixel, of both kinds; half of one shows no edge
    assert likely_ground(parts, []) is None


@pytest.mark.parametrize(
    ("name", "harm"),
    [
        ("flip", MIRRORED),
        ("shift", Registration(down=1.0, right=-1.0)),
        ("zoom", Registration(part_down=1.6, part_right=1.6, zoom=1 / 0.9)),
        ("zoom", Registration(zoom=1 / 1.06**4)),
        ("turn", Registration(degrees=3.0)),
    ],
)
def test_each_kind_is_undone(scene, name, harm):
    images, network, keys = scene
    met = harm(images)
    with_it = AmortisedDecoder(network, 2, [name]).decode(met)
    assert torch.equal(with_it.bits, keys)
    assert float(certainty(with_it.logits).min()) > float(certainty(AmortisedDecoder(network).decode(met).logits).max())


def test_images_that_were_mirrored_and_cropped_are_put_back(scene):
    """By `flip` and `zoom` together, wherever the crop was; by neither alone."""
    images, network, keys = scene
    for place in ((1.6, 1.6), (0.0, -1.6), (-0.8, 0.8)):
        met = MIRRORED(Registration(part_down=place[0], part_right=place[1], zoom=1 / 0.9)(images))
        with_both = AmortisedDecoder(network, 2, ["flip", "zoom"]).decode(met)
        assert torch.equal(with_both.bits, keys)
        for name in ("flip", "zoom"):
            alone = AmortisedDecoder(network, 2, [name]).decode(met)
            assert float(certainty(with_both.logits).min()) > float(certainty(alone.logits).max()) + 1.0


def test_two_changes_are_undone_by_small_steps_on_top_of_the_surest_try(scene):
    images, network, keys = scene
    met = Registration(degrees=-1.5)(Registration(zoom=1 / 0.95)(images))
    coarse = AmortisedDecoder(network, 2, ["zoom", "turn"]).decode(met)
    found = AmortisedDecoder(network, 2, ["zoom", "turn", FINE]).decode(met)
    assert found.readings.shape == (len(images), 1 + 42 + 4 + len(REFINEMENTS), 32)
    assert torch.equal(found.readings[:, : coarse.readings.shape[1]], coarse.readings)
    assert torch.equal(found.bits, keys)
    assert float(certainty(found.logits).min()) > float(certainty(coarse.logits).max()) + 1.0
    start = AmortisedDecoder(network, 2, ["zoom", "turn", FINE]).starts(met)
    assert (start.readings == start.logits[:, None]).all(dim=2).any(dim=1).all()
    assert torch.equal(network(start.images)[0], start.logits)


def test_an_image_as_it_was_made_is_read_as_it_is(scene):
    images, network, _ = scene
    alone = AmortisedDecoder(network).decode(images)
    found = AmortisedDecoder(network, tried=list(REGISTRATIONS)).decode(images)
    assert torch.equal(found.logits, alone.logits)
    assert alone.readings is None
    assert torch.equal(alone.evidence, alone.logits[:, None])
    assert found.readings.shape == (len(images), TRIED, 32)
    assert torch.equal(found.evidence, torch.cat([found.logits[:, None], found.readings], dim=1))
    refined = AmortisedDecoder(network, tried=[*REGISTRATIONS, FINE]).decode(images)
    assert refined.readings.shape == (len(images), ALL, 32)
    assert torch.equal(found.readings[:, 0], alone.logits)
    mirrored_ones = AmortisedDecoder(network).decode(images.flip(-1)).logits
    assert torch.equal(found.readings[:, 1], mirrored_ones)


def test_a_try_has_to_be_surer_by_the_margin(scene):
    """A network that is a little surer of every mirrored image is not followed."""
    images, _, _ = scene

    class Asymmetric(Network):
        gain = 1.0

        def forward(self, seen):
            mirrored_ones = (seen[:, 0, :, :16].sum(dim=(1, 2)) > seen[:, 0, :, 16:].sum(dim=(1, 2)))[:, None]
            return torch.where(mirrored_ones, 1.0 + self.gain, 1.0) * torch.ones(len(seen), 32), torch.zeros(4, 3)

    network = Asymmetric()
    network.gain = 0.1
    assert float(AmortisedDecoder(network, tried=["flip"]).decode(images).logits.max()) == 1.0
    network.gain = 5.0
    assert float(AmortisedDecoder(network, tried=["flip"]).decode(images).logits.min()) == 6.0
    assert MARGIN > 0


class SurestOfMirrored(Network):
    """Says of each image whether its left half is brighter, and is far too sure where it is not."""

    def forward(self, seen):
        left = (seen[:, 0, :, :16].sum(dim=(1, 2)) > seen[:, 0, :, 16:].sum(dim=(1, 2)))[:, None]
        return torch.where(left, 1.0, -6.0) * torch.ones(len(seen), 32), torch.zeros(len(seen), 3)


@pytest.mark.parametrize("blurred", [False, True])
@pytest.mark.parametrize("mirrored", [False, True])
def test_the_reading_whose_image_explains_the_given_one_is_the_answer(blurred, mirrored):
    """Bits of 1 make an image with a bright left half, bits of 0 one that is in no file here."""
    images = torch.rand(4, 3, 32, 32, generator=torch.Generator().manual_seed(0)) * 0.5
    images[..., :16] += 0.4
    other = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    asked = []

    def show(alpha, bits):
        asked.append(len(bits))
        return torch.where(bits[:, :1, None, None], images, other)

    seen = FILTERS["blur_1"](images) if blurred else images
    seen = seen.flip(-1) if mirrored else seen
    surest = AmortisedDecoder(SurestOfMirrored(), tried=["flip"]).starts(seen)
    start = AmortisedDecoder(SurestOfMirrored(), tried=["flip"], show=show).starts(seen)
    assert float(surest.logits.max()) == -6.0
    assert float(start.logits.min()) == 1.0
    assert torch.allclose(start.images, FILTERS["blur_1"](images) if blurred else images, atol=1e-5)
    assert asked == [len(images)] * 2


class Numbered(Network):
    """Reads the same log odds from all images of a pass, those given for its number, which it tells as alpha."""

    def __init__(self, sizes):
        super().__init__()
        self.sizes, self.passes = sizes, 0

    def forward(self, seen):
        size, number = self.sizes[self.passes], self.passes
        self.passes += 1
        return torch.full((len(seen), 32), size), torch.full((len(seen), 3), float(number))


class Shown:
    """Makes an image of each reading, by its number, and a grey one where none is given."""

    def __init__(self, images, made):
        self.images, self.made, self.asked = images, made, []

    def __call__(self, alpha, bits):
        (number,) = set(alpha[:, 0].int().tolist())
        self.asked.append(number)
        return self.made.get(number, torch.full_like(self.images, 0.5))


@pytest.fixture
def lying_still(monkeypatch):
    """Whatever a registration is, the picture lies where it was made."""
    monkeypatch.setattr(
        amortised,
        "plausibility",
        lambda made, images, matrices: plausibility(made, images, torch.eye(3).expand(4, 3, 3)),
    )


def chosen(images, sizes, made=None, tried=(*REGISTRATIONS, FINE)):
    """The number of the reading that is the answer, and the readings whose images were made."""
    show = Shown(images, made or {})
    start = AmortisedDecoder(Numbered(sizes), tried=tried, show=show).starts(images)
    (number,) = set(start.alpha[:, 0].int().tolist())
    assert float(start.logits[0, 0]) == pytest.approx(sizes[number])
    return number, show.asked


def test_the_images_of_the_surest_readings_are_looked_at(scene, lying_still):
    """The image as it is, and the best so far, are among them, however unsure."""
    sizes = [0.1, *torch.linspace(1.0, 2.0, TRIED - 1).tolist(), *torch.linspace(2.5, 1.5, 20).tolist()]
    number, asked = chosen(scene[0], sizes)
    first, around = asked[:SHOWN], asked[SHOWN:]
    assert sorted(first) == [0, *range(TRIED - SHOWN + 1, TRIED)]
    assert sorted(around) == [TRIED - 1, *range(TRIED, TRIED + SHOWN_AROUND - 1)]
    assert number == TRIED  # no image explains anything: the surest


@pytest.mark.parametrize("best", [0, 3, TRIED - 1, TRIED + 4])
def test_of_readings_as_sure_the_one_that_explains_the_image_is_taken(scene, lying_still, best):
    sizes = [1.0] * ALL
    sizes[best] += 1e-3  # among those that are looked at
    assert chosen(scene[0], sizes, {best: scene[0]})[0] == best


def test_the_best_so_far_is_kept_where_small_steps_are_worse(scene, lying_still):
    sizes = [1.0] * ALL
    sizes[10] = 1.5
    sizes[TRIED:] = [2.0] * 20
    assert chosen(scene[0], sizes, {10: scene[0]})[0] == 10
    # where all explain the image, those that are surer
    assert chosen(scene[0], sizes, dict.fromkeys(range(ALL), scene[0]))[0] >= TRIED


def test_certainty_and_explanation_both_count(scene, lying_still):
    """32 certain bits are worth 22 nats: more than an image that is a little off, less than one that is grey."""
    images = scene[0]
    near = 0.95 * images + 0.05 * images.mean()
    still = torch.eye(3).expand(4, 3, 3)
    lost = [
        float((plausibility(images, images, still) - plausibility(each, images, still)).max())
        for each in (near, 0.5 + 0 * near)
    ]
    assert 1.0 < lost[0] < 22.0 < lost[1]
    sizes = [0.0, 0.0, 60.0, *[0.0] * 7]
    assert chosen(images, sizes, {1: images, 2: near}, ["flip", "shift"])[0] == 2
    assert chosen(images, sizes, {1: images}, ["flip", "shift"])[0] == 1


def test_a_quicker_network_looks_through_the_readings_and_the_surest_are_read_again(scene):
    """By the network itself: the image as it is, the surest 16, and 8 of the small steps; each once."""
    images, quick = scene[0], Numbered([*torch.linspace(1.0, 2.0, TRIED - 1).tolist(), *[0.5] * 20])

    class Slow(Numbered):
        quicker = quick

    network = Slow([3.0] * (SHOWN + SHOWN_AROUND - 1))
    start = AmortisedDecoder(network, tried=[*REGISTRATIONS, FINE]).starts(images)
    again = (start.readings == 3.0).all(dim=2)[0].nonzero().flatten().tolist()
    assert again[:SHOWN] == [0, *range(TRIED - SHOWN + 1, TRIED)]
    assert len(again[SHOWN:]) == SHOWN_AROUND - 1
    assert min(again[SHOWN:]) >= TRIED
    assert bool((start.logits == 3.0).all())
    assert [network.passes, quick.passes] == [SHOWN + SHOWN_AROUND - 1, ALL - 1]


def test_a_reading_that_is_no_number_is_never_taken(scene, lying_still):
    assert chosen(scene[0], [1.0, float("nan")], {1: scene[0]}, ["flip"])[0] == 0


def test_each_pass_and_each_synthesis_asks_the_watch(scene):
    """Whoever looks on can end all of them."""
    images = scene[0]

    class Watch:
        def __init__(self, most):
            self.asked, self.most = 0, most

        def check(self):
            self.asked += 1
            if self.asked > self.most:
                raise InterruptedError

        def advance(self, images):
            raise AssertionError("nothing is searched for here")

    passes = ALL + SHOWN + SHOWN_AROUND
    for most in (passes, passes - 1, TRIED + 4):
        watch, show = Watch(most), Shown(images, {})
        decoder = AmortisedDecoder(Numbered([1.0] * ALL), tried=[*REGISTRATIONS, FINE], watch=watch, show=show)
        if most == passes:
            decoder.starts(images)
            assert watch.asked == passes
        else:
            with pytest.raises(InterruptedError):
                decoder.starts(images)
            assert len(show.asked) == {passes - 1: SHOWN + SHOWN_AROUND - 1, TRIED + 4: 4}[most]


def test_one_reading_alone_makes_no_image(scene):
    show = Shown(scene[0], {})
    AmortisedDecoder(Numbered([1.0]), show=show).starts(scene[0])
    assert show.asked == []

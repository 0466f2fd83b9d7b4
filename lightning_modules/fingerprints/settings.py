"""Settings of a LatentFingerprint in four groups, and the translation of those that older runs have left."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, TypeVar

from lightning_modules.common.tables import check_name

LAYOUTS = ("flat", "repeated", "per_channel")
PRIORS = ("projected", "gaussian")
ENCODER = "encoder"
FEWEST_OWN_IMAGES = 4
"""Of the generator, for a bank: two halves of two."""


@dataclass(frozen=True)
class KeySettings:
    """Where keys lie and how strong they are, where no file of a fingerprint says so (Nie et al. 2023, section 3.1).

    Attributes:
        bits: Length of a key.
        shift: First axis of the key; negative counts from the axis of least variance.
        sigma: Strength of the key: how far a bit's two values lie apart, in units of the latent.
        centred: Lay these on both sides of the mean latent: far better images at the same strength. The paper's lie
            at the mean and beside it.
        layout: ``flat``, ``repeated`` or ``per_channel``.
        latent_prior: ``projected`` or ``gaussian``.
        fit_latents: Latents the axes are fitted to.
        secret: File of a secret that turns the key's axes within their subspace, so that who has the generator cannot
            find them; None leaves the principal axes. The fingerprint and its run folder are for their owner alone
            then (``fingerprints.secret_axes``).
        window: With a secret, number of axes the key's are drawn from, its own and those that follow; 0 for its own.
    """

    bits: int = 32
    shift: int = -32
    sigma: float = 1.0
    centred: bool = False
    layout: str = "flat"
    latent_prior: str = "projected"
    fit_latents: int = 10_000
    secret: str | None = None
    window: int = 0

    def __post_init__(self) -> None:
        """Refuse settings that no generator can honour."""
        at_least("key.bits", self.bits, 1)
        at_least("key.fit_latents", self.fit_latents, 2)
        if not self.sigma > 0.0:
            raise ValueError(f"found sigma {self.sigma}, expected a strength above 0")
        check_name("layout", self.layout, LAYOUTS)
        check_name("latent prior", self.latent_prior, PRIORS)
        at_least("key.window", self.window, 0)
        if self.secret is None and self.window:
            raise ValueError(
                f"found key.window {self.window} without key.secret, expected both; the window is what a secret draws "
                "the key's axes from"
            )
        if self.secret is not None and self.layout == "per_channel":
            raise ValueError(
                "found key.secret with key.layout per_channel, whose axes belong to one channel each; expected flat or "
                "repeated"
            )


@dataclass(frozen=True)
class TrainingSettings:
    """The network that reads keys, and how it is trained.

    Attributes:
        backbone: timm network, or ``encoder``: a latent diffusion model's own, which goes on learning.
        stem: ``imagenet``, ``small`` or ``patch``; an encoder has its own.
        weights: ``none``, ``imagenet`` or a path.
        corrections: How often the answer is corrected by the image that it makes (latent diffusion alone); 0 for a
            network of one pass. With `start` they alone are trained, and the network that it names stays as it is.
        start: Checkpoint or run folder of another training, or of one that ships (``stylegan2``): this one begins with
            its network, or with its backbone alone where its keys have another length. None begins anew.
        bank: Train on this many of the latents that the axes are fitted to, each with ever new keys, where sampling
            latents is slow; 0 samples every latent anew.
        attack: What training images meet: a name or a mapping (``lightning_modules.attacks``).
        curriculum: Share of the training over which the attack grows from nothing to its full strength.
        alpha_weight: Weight of the squared error of alpha beside the cross-entropy of the bits.
        learning_rate: Peak of AdamW's learning rate.
        weight_decay: AdamW's.
        unmarked_images: After a training, decode so many of the generator's own images, and a thousand of others, into
            the bank beside the fingerprint that `users` and `predict` look at (``users bank``); 0 leaves none.
    """

    backbone: str = "resnet18"
    stem: str = "patch"
    weights: str = "none"
    corrections: int = 0
    start: str | None = None
    bank: int = 0
    attack: str | dict[str, Any] = "paper-scaled-mixture"
    curriculum: float = 0.3
    alpha_weight: float = 0.1
    learning_rate: float = 1e-3
    weight_decay: float = 0.01
    unmarked_images: int = 1000

    def __post_init__(self) -> None:
        """Refuse numbers out of range."""
        if self.unmarked_images and self.unmarked_images < FEWEST_OWN_IMAGES:
            raise ValueError(
                f"found training.unmarked_images {self.unmarked_images}, expected at least {FEWEST_OWN_IMAGES}, better "
                "1,000, or 0 for no bank"
            )
        for name in ("corrections", "bank", "curriculum", "alpha_weight", "learning_rate", "weight_decay"):
            at_least(f"training.{name}", getattr(self, name), 0)


@dataclass(frozen=True)
class DecoderSettings:
    """What a test and a prediction read keys with.

    Attributes:
        name: ``amortised``, ``refined``, ``hybrid``, ``inversion`` or ``paper`` (``fingerprints.decoders.registry``).
        options: Its settings that differ from its preset.
        loss: Distance that ranks a search's answers (``fingerprints.decoders.losses``): a mapping with ``name`` and
            arguments; None for ``pixels``.
        simulate: Attack to simulate while inverting (``paper`` only), where post-processing is known or guessed.
        noise: Noise of a StyleGAN2 while reading keys; None for the one that marked images have.
        cache: Keep each decoded batch in this folder and take it from there; None keeps nothing.
    """

    name: str = "amortised"
    options: dict[str, Any] | None = None
    loss: dict[str, Any] | None = None
    simulate: str | dict[str, Any] | None = None
    noise: str | None = None
    cache: str | None = None

    @property
    def image_loss(self) -> dict[str, Any]:
        """The loss as `make_loss` takes it."""
        return self.loss or {"name": "pixels"}

    def __str__(self) -> str:
        """The decoder and its options in a few words."""
        options = ", ".join(f"{name} {value}" for name, value in (self.options or {}).items())
        return f"{self.name} ({options})" if options else self.name


@dataclass(frozen=True)
class TestSettings:
    """What a test does beside reading the keys of marked images.

    Attributes:
        other_generator: Source of the negatives from elsewhere: a checkpoint or a bundled name; None for none.
        features: Extractor of the Frechet distances; None for none.
        perceptual: Loss whose mean over pairs of a marked image and the unmarked one is reported; None for none.
    """

    __test__ = False  # no test of pytest's

    other_generator: str | None = None
    features: str | None = None
    perceptual: dict[str, Any] | None = None


def at_least(name: str, value: float, least: float) -> None:
    """Refuse, by a ValueError, the value of a setting that is smaller, or not a number."""
    if not value >= least:
        raise ValueError(f"found {name} {value}, expected at least {least}")


Settings = TypeVar("Settings", KeySettings, TrainingSettings, DecoderSettings, TestSettings)


def as_settings(kind: type[Settings], given: Any) -> Settings:
    """A group of settings: as given, or from the plain values that a checkpoint holds.

    Raises:
        ValueError: anything else.
    """
    if isinstance(given, Mapping):
        return kind(**given)
    if not isinstance(given, kind):
        raise ValueError(f"found {given!r}, expected {kind.__name__}, or its values by name")
    return given


# --- runs of older versions ------------------------------------------------------------------------------------------

_EARLIER = {
    "key": tuple(field.name for field in fields(KeySettings)),
    "training": tuple(field.name for field in fields(TrainingSettings)),
    "decoder": {"decoder": "name", "decoder_options": "options", "loss": "loss", "simulate": "simulate"}
    | {"attribution_noise": "noise", "resume_decoding": "cache"},
    "test": ("other_generator", "features", "perceptual"),
}
_OPTIONS = {"sure": "stop_log_odds", "keep": "survivors"}
MOVED = {
    name: f"{group}.{names[name] if isinstance(names, dict) else name}"
    for group, names in _EARLIER.items()
    for name in names
}
"""Where each setting is today, dotted, by the name it had when all stood side by side."""


def current_settings(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings of a LatentFingerprint in today's groups; the one place that knows their earlier names.

    Checkpoints and run folders up to version 0.1 hold all settings side by side, and two options of decoders under
    other names. Those of today are returned as they are.
    """
    current: dict[str, Any] = {}
    for name, value in settings.items():
        if name not in MOVED or (name == "decoder" and isinstance(value, Mapping)):
            current[name] = value
            continue
        group, _, new = MOVED[name].partition(".")
        if new == "options" and isinstance(value, Mapping):
            value = {_OPTIONS.get(option, option): setting for option, setting in value.items()}
        current.setdefault(group, {})[new] = value
    if isinstance(test := current.get("test"), Mapping) and "attacks" in test:  # where it stood for a while
        current["test"] = {name: value for name, value in test.items() if name != "attacks"}
        current["test_attacks"] = test["attacks"]
    return current

"""Key decoders by name: a new one is a file with its class, and a line of `DECODERS`."""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from dataclasses import asdict, fields, replace
from pathlib import Path
from types import UnionType
from typing import Any, get_args, get_origin, get_type_hints

import torch

from lightning_modules.attacks import make_attack
from lightning_modules.common.tables import Table, check_name
from lightning_modules.common.weights import content_hash
from lightning_modules.fingerprints.decoders.base import (
    ANSWERS,
    UNWATCHED,
    CachedDecoder,
    DecoderParts,
    KeyDecoder,
    Watch,
)
from lightning_modules.fingerprints.decoders.key_network import CalibratedNetwork
from lightning_modules.fingerprints.decoders.losses import make_loss
from lightning_modules.fingerprints.fingerprint import Fingerprint
from lightning_modules.fingerprints.settings import DecoderSettings

_HERE = "lightning_modules.fingerprints.decoders"
DECODERS = Table(
    "decoder",
    {
        "amortised": f"{_HERE}.amortised:AmortisedDecoder",
        "hybrid": f"{_HERE}.hybrid:HybridDecoder",
        "inversion": f"{_HERE}.hybrid:RestartedDecoder",
        "paper": f"{_HERE}.inversion:InversionDecoder",
        "refined": f"{_HERE}.hybrid:RefinedDecoder",
    },
)
"""Each class has its `settings_class`, its `preset` and `build` (`base.NamedDecoder`)."""


def check_decoder(name: str, options: Mapping[str, Any]) -> None:
    """Refuse a decoder or an option that is unknown.

    Raises:
        ValueError: either; the message names what is near.
    """
    known = _options(name)
    for option in options:
        if option not in known and (owners := [other for other in DECODERS if option in _options(other)]):
            raise ValueError(
                f"found option of the decoder {name} {option!r}, of {' and of '.join(owners)}; expected one of "
                f"{', '.join(known)}, or another decoder's name beside it"
            )
        check_name(f"option of the decoder {name}", option, known)


def _options(name: str) -> list[str]:
    return [field.name for field in fields(DECODERS.load(name).settings_class)]


def make_decoder(name: str, parts: DecoderParts, options: Mapping[str, Any] | None = None) -> KeyDecoder:
    """Build a decoder. No decoder is given keys: images in, estimates out.

    Args:
        name: key of `DECODERS`.
        parts: what it is made of.
        options: settings that differ from the preset.

    Raises:
        ValueError: unknown decoder or option, or an attack for a decoder that cannot simulate it.
    """
    kind, settings = DECODERS.load(name), decoder_settings(name, options)
    if parts.attack is not None and not kind.simulates_attacks:
        raise ValueError(f"found an attack to simulate in the decoder {name}, expected the decoder paper")
    decoder: KeyDecoder = kind.build(parts, settings)
    return decoder


def decoder_settings(name: str, options: Mapping[str, Any] | None = None) -> Any:
    """An instance of the decoder's `settings_class`: its preset, and the options that differ from it.

    Raises:
        ValueError: as `check_decoder`, or values that the decoder cannot run with.
    """
    check_decoder(name, options or {})
    kind = DECODERS.load(name)
    expected = get_type_hints(kind.settings_class)
    for option, value in (options or {}).items():
        _check_type(f"option {option} of the decoder {name}", value, expected[option])
    settings = {**kind.preset, **(options or {})}
    if "survivors" in settings:  # lists, where it comes from a command line
        settings["survivors"] = tuple((step, starts) for step, starts in settings["survivors"])
    return kind.settings_class(**settings)


_WORDS: dict[Any, str] = {int: "a whole number", float: "a number", bool: "true or false", type(None): "null"}


def _check_type(what: str, value: Any, expected: Any) -> None:
    """Refuse, by a ValueError, a value from a config or a command line that is not of the type of its setting."""
    kinds = get_args(expected) if isinstance(expected, UnionType) else (expected,)
    if all(kind in _WORDS for kind in kinds):
        allowed = (int, float) if float in kinds else kinds
        fits = type(value) in allowed
        words = " or ".join(_WORDS[kind] for kind in kinds)
    elif get_origin(expected) is tuple:
        fits = isinstance(value, list | tuple) and all(
            isinstance(pair, list | tuple) and len(pair) == 2 and all(type(number) is int for number in pair)
            for pair in value
        )
        words = "a list of pairs of whole numbers"
    else:
        fits = isinstance(value, list | tuple) and all(isinstance(name, str) for name in value)
        words = "a list of names, such as [flip, shift]"
    if not fits:
        raise ValueError(f"found {what} {value!r}, expected {words}")


def images_at_once(settings: DecoderSettings) -> int:
    """Images that a decoder decodes together: so many answers come at the same time."""
    kind = DECODERS.load(settings.name)
    return int(kind.images_at_once(decoder_settings(settings.name, settings.options)))


def decoder_identity(settings: DecoderSettings, network: CalibratedNetwork) -> dict[str, Any]:
    """What a decoder's answers depend on, beside generator and fingerprint, as plain values."""
    kind = DECODERS.load(settings.name)
    weights = content_hash(network.state_dict()) if kind.needs_network else None
    options = asdict(decoder_settings(settings.name, settings.options))
    if "survivors" in options:  # as JSON gives it back
        options["survivors"] = [list(pair) for pair in options["survivors"]]
    named = asdict(replace(settings, cache=None))
    return {"weights": weights, "options": options, "settings": named, "answers": ANSWERS}


def build_decoder(
    settings: DecoderSettings,
    generator: Any,
    options: Mapping[str, Any] | None,
    fingerprint: Fingerprint,
    network: CalibratedNetwork,
    device: torch.device,
    watch: Watch = UNWATCHED,
) -> KeyDecoder:
    """Make the decoder for test and predict; one that caches its answers where `settings.cache` names a folder.

    Args:
        settings: which decoder, and how it searches.
        generator: the frozen generator. Where the settings name another noise, a copy of it reads keys.
        options: how the generator samples; part of a cache's identity.
        fingerprint: where keys lie.
        network: the trained network; decoders that need none ignore it.
        device: where images will be.
        watch: looks on while keys are searched for.
    """
    if settings.noise is not None:
        generator = deepcopy(generator)
        generator.configure(noise=settings.noise)
    generator.to(device)
    loss = make_loss(**settings.image_loss).to(device)
    simulated = None if settings.simulate is None else make_attack(settings.simulate).differentiable
    parts = DecoderParts(generator, fingerprint.to(device), network, loss, simulated, watch)
    decoder = make_decoder(settings.name, parts, settings.options)
    if settings.cache is None:
        return decoder
    identity = repr(
        [
            content_hash(network.state_dict()),
            replace(settings, cache=None),
            decoder_settings(settings.name, settings.options),
            ANSWERS,
            options,  # a StyleGAN2 renders with their noise
            fingerprint.id,
        ]
    )
    return CachedDecoder(decoder, Path(settings.cache), identity, images_at_once(settings), watch)

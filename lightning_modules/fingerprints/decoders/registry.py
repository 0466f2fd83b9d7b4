"""Key decoders by name: a new one is a file with its class, and a line of `DECODERS`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from lightning_modules.common.tables import Table, check_name
from lightning_modules.fingerprints.decoders.base import DecoderParts, KeyDecoder

_HERE = "lightning_modules.fingerprints.decoders"
DECODERS = Table(
    "decoder",
    {
        "amortised": f"{_HERE}.amortised:AmortisedDecoder",
        "hybrid": f"{_HERE}.hybrid:HybridDecoder",
        "inversion": f"{_HERE}.hybrid:RestartedDecoder",
        "paper": f"{_HERE}.inversion:InversionDecoder",
    },
)
"""Each class has its `settings_class`, its `preset` and `build` (`base.NamedDecoder`)."""


def check_decoder(name: str, options: Mapping[str, Any]) -> None:
    """Refuse a decoder or an option that is unknown.

    Raises:
        ValueError: either; the message names what is near.
    """
    known = [field.name for field in fields(DECODERS.load(name).settings_class)]
    for option in options:
        check_name(f"option of the decoder {name}", option, known)


def make_decoder(name: str, parts: DecoderParts, options: Mapping[str, Any] | None = None) -> KeyDecoder:
    """Build a decoder. No decoder is given keys: images in, estimates out.

    Args:
        name: key of `DECODERS`.
        parts: what it is made of.
        options: settings that differ from the preset.

    Raises:
        ValueError: unknown decoder or option, or an attack for a decoder that cannot simulate it.
    """
    check_decoder(name, options or {})
    kind = DECODERS.load(name)
    if parts.attack is not None and not kind.simulates_attacks:
        raise ValueError(f"found an attack to simulate in the decoder {name}, expected the decoder paper")
    settings = {**kind.preset, **(options or {})}
    if "survivors" in settings:  # lists, where it comes from a command line
        settings["survivors"] = tuple((int(step), int(starts)) for step, starts in settings["survivors"])
    decoder: KeyDecoder = kind.build(parts, kind.settings_class(**settings))
    return decoder

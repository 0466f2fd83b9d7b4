"""Key decoders by name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from lightning_modules.common.tables import check_name
from lightning_modules.fingerprints.decoders.amortised import AmortisedDecoder, KeyNetwork
from lightning_modules.fingerprints.decoders.base import KeyDecoder
from lightning_modules.fingerprints.decoders.hybrid import EncoderStarts, HybridDecoder, RestartedDecoder, StartDecoder
from lightning_modules.fingerprints.decoders.inversion import Attack, InversionDecoder, InversionSettings
from lightning_modules.fingerprints.decoders.least_squares import (
    LeastSquaresDecoder,
    LeastSquaresSettings,
    search_space,
)
from lightning_modules.fingerprints.decoders.losses import ImageLoss, make_loss
from lightning_modules.fingerprints.fingerprint import Fingerprint
from lightning_modules.generators.protocol import Generator

PRESETS: dict[str, dict[str, Any]] = {
    "amortised": {},
    "hybrid": {"iterations": 10, "tolerance": 1e-2, "sure": 100.0},
    "inversion": {"iterations": 15, "keep": ((2, 6), (5, 3)), "tolerance": 1e-3, "sure": 1000.0},
    "paper": {},
}
"""What each decoder is run with; options change single settings.

amortised: a trained network alone. hybrid: least squares from the network's answer. inversion: least squares from the
generator's encoder where it has one, else from each restart of a short descent. paper: Adam from 20 points of a Latin
hypercube, 2000 steps (Nie et al. 2023, section 3.2)."""

DESCENT = InversionSettings(starts=16, steps=60, learning_rate=0.1, decay=0.008, whitened=True)
"""The descent that starts an efficient inversion."""


def check_decoder(name: str, options: Mapping[str, Any]) -> None:
    """Refuse a decoder or an option that is unknown.

    Raises:
        ValueError: either; the message names what is near.
    """
    check_name("decoder", name, list(PRESETS))
    settings = InversionSettings if name == "paper" else LeastSquaresSettings
    known = ["batch"] if name == "amortised" else [field.name for field in fields(settings)]
    for option in options:
        check_name(f"option of the decoder {name}", option, known)


def make_decoder(
    name: str,
    generator: Generator,
    fingerprint: Fingerprint,
    network: KeyNetwork,
    loss: ImageLoss,
    options: Mapping[str, Any] | None = None,
    attack: Attack | None = None,
) -> KeyDecoder:
    """Build a decoder. No decoder is given keys: images in, estimates out.

    Args:
        name: key of `PRESETS`.
        generator: the frozen generator as the attributor has it.
        fingerprint: its fingerprint, on its device.
        network: a trained network; only `amortised` and `hybrid` look at it.
        loss: what restarts and answers are judged by.
        options: settings that differ from the preset.
        attack: post-processing to simulate in a descent (`paper` only), where the attributor knows or guesses it.

    Raises:
        ValueError: unknown decoder or option, or an attack for a decoder that cannot simulate it.
    """
    options = dict(options or {})
    check_decoder(name, options)
    if attack is not None and name != "paper":
        raise ValueError(f"found an attack to simulate in the decoder {name}, expected the decoder paper")
    settings = {**PRESETS[name], **options}
    if name == "amortised":
        return AmortisedDecoder(network, **settings)
    if "keep" in settings:  # lists, where it comes from a command line
        settings["keep"] = tuple((int(step), int(restarts)) for step, restarts in settings["keep"])
    if name == "paper":
        return InversionDecoder(generator.synthesize, fingerprint, loss, InversionSettings(**settings), attack)
    space = search_space(generator, fingerprint)
    spectrum = make_loss("spectrum").to(fingerprint.mean.device)
    search = LeastSquaresDecoder(space.synthesize, space.fingerprint, spectrum, LeastSquaresSettings(**settings))
    if name == "inversion" and not hasattr(generator, "encode"):
        descent = InversionDecoder(generator.synthesize, fingerprint, loss, DESCENT)
        return RestartedDecoder(descent, search, generator, fingerprint, loss)
    start: StartDecoder = EncoderStarts(generator, fingerprint)
    trust = None
    if name == "hybrid":
        start, trust = AmortisedDecoder(network), network.alpha_error
    return HybridDecoder(start, search, space, generator, fingerprint, loss, trust)

"""Noise maps of a StyleGAN2: the fingerprint names those that images with keys have."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lightning_modules.fingerprints.fingerprint import Fingerprint
from lightning_modules.fingerprints.fingerprint_file import FingerprintError


def check_same_noise(generator: Any, fingerprint: Fingerprint) -> None:
    """Refuse a generator whose noise is not the fingerprint's.

    Raises:
        FingerprintError: it has another one.
    """
    noise = str(getattr(generator, "noise", ""))
    if noise != fingerprint.noise:
        raise FingerprintError(
            f"found a generator with noise {noise!r}, expected {fingerprint.noise!r} as in the fingerprint, since "
            f"keys are searched for with that noise; leave the option out or set noise to {fingerprint.noise!r}"
        )


def take_noise(generator: Any, fingerprint: Fingerprint, options: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """Give a generator the fingerprint's noise where its options name none.

    Args:
        generator: as loaded with the options; changed in place.
        fingerprint: the one it carries.
        options: those the generator was loaded with.

    Returns:
        Options under which the generator loads with that noise: as given where it has it already.

    Raises:
        FingerprintError: the options name another noise.
    """
    given = None if options is None else dict(options)
    if fingerprint.noise not in ("", getattr(generator, "noise", "")) and "noise" not in (given or {}):
        generator.configure(noise=fingerprint.noise)
        given = {**(given or {}), "noise": fingerprint.noise}
    check_same_noise(generator, fingerprint)
    return given

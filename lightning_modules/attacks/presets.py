"""The attacks that have names: the paper's, the paper's scaled to the image, and grids of fixed strengths."""

from __future__ import annotations

from typing import Any

Spec = dict[str, Any]
"""An attack as YAML writes it: `kind` and the arguments of its class."""

EVALUATED = ("identity", "noise", "blur", "jpeg", "combination")


def _preset(noise: Spec, blur: Spec, jpeg: Spec) -> dict[str, Spec]:
    attacks: dict[str, Spec] = {
        "identity": {"kind": "identity"},
        "noise": {"kind": "noise", **noise},
        "blur": {"kind": "blur", **blur},
        "jpeg": {"kind": "jpeg", **jpeg},
        "combination": {"kind": "combination", "blur": blur, "noise": noise, "jpeg": jpeg},
    }
    return {**attacks, "mixture": {"kind": "mixture", "attacks": [attacks[name] for name in EVALUATED]}}


_NOISE: Spec = {"std": {"uniform": [0.0, 0.1]}}
_BLUR: Spec = {"kernel": [3, 7, 9, 16, 25], "sigma": [0.5, 1.0, 1.5, 2.0]}
_JPEG: Spec = {"quality": [80, 70, 60, 50]}

PRESETS: dict[str, dict[str, Spec]] = {
    "paper": _preset(_NOISE, _BLUR, _JPEG),  # Nie et al. 2023, Sec. 4; drawn per image
    "paper-strongest": _preset({"std": 0.1}, {"kernel": 25, "sigma": 2.0}, {"quality": 50}),  # as in their release
    # the paper's images have 256 px: kernel and sigma times size / 256 (at 32 px this leaves 8-bit images as they are)
    "paper-scaled": _preset(_NOISE, {**_BLUR, "reference_size": 256}, _JPEG),
    # blurred as if the image had been enlarged to 256 px, blurred there and brought back
    "paper-enlarged": _preset(_NOISE, {**_BLUR, "reference_size": 256, "scaling": "image"}, _JPEG),
}

GRIDS: dict[str, tuple[str, ...]] = {
    "noise": ("0.01", "0.02", "0.05", "0.1", "0.15", "0.2"),
    "blur": ("0.25", "0.5", "0.75", "1", "1.5", "2"),
    "jpeg": ("95", "90", "80", "70", "60", "50", "30", "10"),
    "combination": ("0.1", "0.25", "0.5", "0.75", "1"),
}
"""Strengths of the robustness curves, by kind, as they stand in names."""

STRENGTHS: dict[str, tuple[str, str]] = {
    "noise": ("std", "standard deviation in [0, 1] image units"),
    "blur": ("sigma", "standard deviation in pixels, kernel reaching 4 of them"),
    "jpeg": ("quality", "quality, a whole number from 1 to 100"),
    "combination": ("strength", "share of paper-strongest, 0 to 1"),
}
"""Which argument the number in `KIND_NUMBER` is, and what it means."""


def preset_names() -> list[str]:
    """Names of all attacks of all presets, `PRESET-ATTACK`."""
    return [f"{preset}-{attack}" for preset, attacks in PRESETS.items() for attack in attacks if attack != "identity"]


def grid_names(kind: str) -> list[str]:
    """Names of the attacks of a strength grid, `KIND_NUMBER`."""
    return [f"{kind}_{strength}" for strength in GRIDS[kind]]

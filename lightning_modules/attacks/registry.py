"""From a name or a plain dict to an attack; every kind of attack is registered here."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import yaml

from lightning_modules.attacks.base import Attack
from lightning_modules.attacks.blur import Blur
from lightning_modules.attacks.combination import Combination, Identity, Mixture
from lightning_modules.attacks.jpeg import Jpeg
from lightning_modules.attacks.noise import Noise

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


ATTACKS: dict[str, type[Attack]] = {
    attack.kind: attack for attack in (Identity, Noise, Blur, Jpeg, Combination, Mixture)
}


def make_attack(spec: str | Mapping[str, Any]) -> Attack:
    """Make one attack.

    Args:
        spec: a name: `identity`, `PRESET-ATTACK` (`paper-jpeg`, `paper-scaled-mixture`) or `KIND_NUMBER` (`noise_0.05`
            standard deviation in [0, 1] units, `blur_1.5` pixels, `jpeg_50` quality, `combination_0.5` share of
            paper-strongest); or a dict of `kind`, the arguments of its class, and optionally `strength` and `name`.
            The stages of a combination are dicts of their arguments, the attacks of a mixture are names or dicts.

    Raises:
        ValueError: a name, a key or a value there is not; the message suggests the nearest.
    """
    if isinstance(spec, Mapping):
        return _from_options({**spec})
    if not isinstance(spec, str):
        raise ValueError(f"expected an attack as a name or as a dict with 'kind', found {spec!r}")
    attack = _from_options({**_named(spec)})
    attack.name = spec
    return attack


def make_attacks(specs: str | Iterable[str | Mapping[str, Any]]) -> dict[str, Attack]:
    """Make the attacks of an evaluation, by name and in order, each once.

    Args:
        specs: names and dicts as in `make_attack`, and names of sets: a preset (`paper`, `paper-strongest`,
            `paper-scaled`, `paper-enlarged`) stands for identity, noise, blur, JPEG and combination, `grid-KIND` for
            the strengths of a robustness curve.

    Raises:
        ValueError: as in `make_attack`, or two different attacks of one name.
    """
    made: dict[str, Attack] = {}
    written: dict[str, object] = {}
    for spec in [specs] if isinstance(specs, str) else specs:
        for member in _members(spec):
            attack = make_attack(member)
            if written.setdefault(attack.name, member) != member:
                raise ValueError(f"two attacks are called '{attack.name}': give one of them another 'name'")
            made[attack.name] = attack
    return made


def read_attacks(path: Path) -> dict[str, Attack]:
    """Make the attacks that a YAML file lists (`configs/attacks/robustness.yaml` is one).

    Raises:
        ValueError: not a YAML list, or as in `make_attacks`.
    """
    try:
        listed = yaml.safe_load(path.read_text())
    except yaml.YAMLError as error:
        raise ValueError(f"{path} is not YAML: {error}") from error
    if not isinstance(listed, list):
        raise ValueError(f"{path}: expected a list of attacks, names or dicts, found {type(listed).__name__}")
    return make_attacks(listed)


def _members(spec: str | Mapping[str, Any]) -> Sequence[str | Mapping[str, Any]]:
    if isinstance(spec, str) and spec in PRESETS:
        return [name if name == "identity" else f"{spec}-{name}" for name in EVALUATED]
    if isinstance(spec, str) and spec.startswith("grid-"):
        kind = spec.removeprefix("grid-")
        if kind not in GRIDS:
            raise ValueError(f"there is no grid '{spec}'" + _hint(spec, [f"grid-{known}" for known in GRIDS]))
        return grid_names(kind)
    return [spec]


def _named(name: str) -> Mapping[str, Any]:
    """Read a name as the dict it stands for."""
    for preset, attacks in PRESETS.items():
        if name.removeprefix(f"{preset}-") in attacks and name.startswith(f"{preset}-"):
            return attacks[name.removeprefix(f"{preset}-")]
    if name == "identity":
        return {"kind": "identity"}
    if name in PRESETS or name.startswith("grid-"):
        raise ValueError(f"'{name}' is a set of attacks, one was expected: name one of it, or call make_attacks")
    kind, separator, number = name.partition("_")
    if kind not in STRENGTHS:
        near = [f"{close}_{number or GRIDS[close][0]}" for close in get_close_matches(kind, STRENGTHS, n=1)]
        known = ["identity", *preset_names(), *(grid for kind in GRIDS for grid in grid_names(kind))]
        raise ValueError(f"there is no attack '{name}'" + _hint(name, near if separator and near else known))
    try:
        strength = float(number)
    except ValueError:
        raise ValueError(
            f"found the attack '{name}', expected {kind}_NUMBER ({STRENGTHS[kind][1]}), "
            f"for example {grid_names(kind)[0]}"
        ) from None
    base = PRESETS["paper-strongest"]["combination"] if kind == "combination" else {"kind": kind}
    return {**base, STRENGTHS[kind][0]: strength}


def _from_options(options: dict[str, Any]) -> Attack:
    kind = options.pop("kind", None)
    if kind not in ATTACKS:
        found = f"found kind {kind!r}" if kind is not None else f"found no 'kind' in {options}"
        raise ValueError(f"{found}" + _hint(str(kind), list(ATTACKS)))
    name, strength = options.pop("name", kind), options.pop("strength", 1.0)
    parameters = inspect.signature(ATTACKS[kind]).parameters
    for key in options:
        if key not in parameters:
            raise ValueError(f"{kind} has no '{key}'" + _hint(key, [*parameters, "name", "strength"]))
    missing = [key for key, parameter in parameters.items() if parameter.default is parameter.empty]
    missing = [key for key in missing if key not in options]
    if missing:
        raise ValueError(f"{kind} needs {', '.join(missing)}; found {', '.join(options) or 'nothing'}")
    if kind == "combination":
        options = {stage: _from_options({"kind": stage, **_as_mapping(stage, options[stage])}) for stage in options}
    if kind == "mixture":
        options["attacks"] = [make_attack(member) for member in options["attacks"]]
    attack = ATTACKS[kind](**options)
    attack = attack if strength == 1.0 else attack.at_strength(strength)
    attack.name = str(name)
    return attack


def _as_mapping(stage: str, value: object) -> Mapping[str, Any]:
    if not isinstance(value, Mapping) or value.get("kind", stage) != stage:
        raise ValueError(f"combination.{stage}: found {value!r}, expected the arguments of {stage} as a dict")
    return value


def _hint(found: str, known: list[str]) -> str:
    near = get_close_matches(found, known, n=3)
    return f": did you mean {' or '.join(near)}?" if near else f": there are {', '.join(known)}"

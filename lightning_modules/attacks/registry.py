"""From a name, a plain dict or a YAML file to attacks. A new kind is a file with its class, and a line of `ATTACKS`."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import yaml

from lightning_modules.attacks.base import Attack, Spec
from lightning_modules.attacks.curves import Curve
from lightning_modules.common.shipped import find_config
from lightning_modules.common.tables import Table, did_you_mean

ATTACKS = Table(
    "attack",
    {
        "identity": "lightning_modules.attacks.combination:Identity",
        "noise": "lightning_modules.attacks.noise:Noise",
        "blur": "lightning_modules.attacks.blur:Blur",
        "jpeg": "lightning_modules.attacks.jpeg:Jpeg",
        "combination": "lightning_modules.attacks.combination:Combination",
        **{
            kind: f"lightning_modules.attacks.geometry:{name}"
            for kind, name in {
                "crop": "Crop",
                "aspect": "Aspect",
                "scaling": "Scaling",
                "shift": "Shift",
                "flip": "Flip",
                "rotation": "Rotation",
            }.items()
        },
        **{
            name.lower(): f"lightning_modules.attacks.tones:{name}"
            for name in ("Brightness", "Contrast", "Gamma", "Saturation", "Overlay", "Border")
        },
        **{
            name.lower(): f"lightning_modules.attacks.everyday:{name}"
            for name in ("WebP", "Palette", "Social", "Chain")
        },
        "regeneration": "lightning_modules.attacks.regeneration:Regeneration",
        "mixture": "lightning_modules.attacks.combination:Mixture",
    },
)
"""Each class has its options in the presets below, and its curve (`base.Attack`)."""

PRESETS = {
    "paper": "the ranges of Nie et al. 2023, drawn anew for each image",
    "paper-strongest": "its strongest settings",
    "paper-scaled": "its ranges, the blur made for 256 px scaled to the image",
    "paper-enlarged": "its ranges, the blur as if the image had been enlarged to 256 px",
    "life": "what happens to images that are passed on, each mildly: geometry, tones, codecs, overlays, chains",
}
"""What each preset is (the paper's: its section 4)."""


SETS: dict[str, list[str | Mapping[str, Any]]] = {
    "imageattributionbench": [
        {"kind": "scaling", "share": 0.5, "filter": "nearest", "name": "scaling_0.5_nearest"},
        {"kind": "scaling", "share": 0.25, "filter": "nearest", "name": "scaling_0.25_nearest"},
        *("jpeg_65", "jpeg_30", "blur_3", "blur_5"),
    ],
}
"""Attacks without chance that are asked for by one name: the six degradations of ImageAttributionBench (2026)."""


def preset_specs() -> dict[str, dict[str, Spec]]:
    """The attacks of every preset by kind, and last the mixture of them all."""
    kinds = {kind: ATTACKS.load(kind).presets for kind in ATTACKS}
    specs = {}
    for preset in PRESETS:
        members = {kind: {"kind": kind, **presets[preset]} for kind, presets in kinds.items() if preset in presets}
        if preset == "life":
            single = [spec for kind, spec in members.items() if kind not in ("identity", "combination")]
            members["chain"] = {"kind": "chain", "attacks": single}
        specs[preset] = {**members, "mixture": {"kind": "mixture", "attacks": list(members.values())}}
    return specs


def curves() -> dict[str, Curve]:
    """The robustness curves by kind of attack, in the order shown."""
    found = {kind: ATTACKS.load(kind).curve for kind in ATTACKS}
    return {kind: curve for kind, curve in found.items() if curve is not None}


def preset_names() -> list[str]:
    """Names of all attacks of all presets, `PRESET-ATTACK`."""
    return [f"{preset}-{kind}" for preset, specs in preset_specs().items() for kind in specs if kind != "identity"]


def grid_names(kind: str) -> list[str]:
    """Names of the attacks of a strength grid, `KIND_NUMBER`."""
    return [f"{kind}_{strength}" for strength in curves()[kind].strengths]


def make_attack(spec: str | Mapping[str, Any]) -> Attack:
    """Make one attack.

    Args:
        spec: a name: `identity`, `PRESET-ATTACK` (`paper-jpeg`, `paper-scaled-mixture`) or `KIND_NUMBER` (`noise_0.05`
            standard deviation in [0, 1] units, `blur_1.5` pixels, `jpeg_50` quality, `combination_0.5` share of
            paper-strongest); or a dict of `kind`, the arguments of its class, and optionally `strength`, `name` and
            `seed`.
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
            the strengths of a robustness curve, and the path of a YAML file for what it lists
            (`configs/attacks/robustness.yaml`).

    Raises:
        ValueError: as in `make_attack`, two different attacks of one name, or a file that is no YAML list.
        FileNotFoundError: no such file.
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


def _members(spec: str | Mapping[str, Any]) -> Sequence[str | Mapping[str, Any]]:
    if not isinstance(spec, str):
        return [spec]
    if spec in PRESETS:
        return [kind if kind == "identity" else f"{spec}-{kind}" for kind in preset_specs()[spec] if kind != "mixture"]
    if spec in SETS:
        return SETS[spec]
    if spec.startswith("grid-"):
        kind = spec.removeprefix("grid-")
        if kind not in curves():
            raise ValueError(f"there is no grid '{spec}'" + _hint(spec, [f"grid-{known}" for known in curves()]))
        return grid_names(kind)
    if spec.endswith((".yaml", ".yml")):
        return [member for listed in _read_list(Path(find_config(spec))) for member in _members(listed)]
    return [spec]


def _read_list(path: Path) -> Sequence[str | Mapping[str, Any]]:
    try:
        listed = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise ValueError(f"{path} is not YAML: {error}") from error
    if not isinstance(listed, list):
        raise ValueError(f"{path}: expected a list of attacks, names or dicts, found {type(listed).__name__}")
    return listed


def _named(name: str) -> Mapping[str, Any]:
    """Read a name as the dict it stands for."""
    for preset, specs in preset_specs().items():
        if name.removeprefix(f"{preset}-") in specs and name.startswith(f"{preset}-"):
            return specs[name.removeprefix(f"{preset}-")]
    if name in ATTACKS and _takes_no_options(name):
        return {"kind": name}
    if name in PRESETS or name in SETS or name.startswith("grid-") or name.endswith((".yaml", ".yml")):
        raise ValueError(f"'{name}' is a set of attacks, one was expected: name one of it, or call make_attacks")
    kind, separator, number = name.rpartition("_") if "_" in name else (name, "", "")
    if kind not in curves():
        near = [f"{close}_{number}" for close in get_close_matches(kind, curves(), n=1)] if separator else []
        known = [
            *filter(_takes_no_options, ATTACKS),
            *preset_names(),
            *(name for kind in curves() for name in grid_names(kind)),
        ]
        raise ValueError(f"there is no attack '{name}'" + _hint(name, near or known))
    curve = curves()[kind]
    try:
        strength = float(number)
    except ValueError:
        raise ValueError(
            f"found the attack '{name}', expected {kind}_NUMBER ({curve.meaning}), for example {grid_names(kind)[0]}"
        ) from None
    return {"kind": kind, **curve.fixed, curve.argument: strength}


def _takes_no_options(kind: str) -> bool:
    """Whether the kind alone is an attack: `identity`, `flip`."""
    parameters = inspect.signature(ATTACKS.load(kind)).parameters.values()
    return all(parameter.default is not parameter.empty for parameter in parameters)


def _from_options(options: Spec) -> Attack:
    kind = options.pop("kind", None)
    if kind not in ATTACKS:
        found = f"found kind {kind!r}" if kind is not None else f"found no 'kind' in {options}"
        raise ValueError(f"{found}" + _hint(str(kind), list(ATTACKS)))
    name, seed = options.pop("name", kind), options.pop("seed", None)
    if seed is not None and (isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed < 2**63):
        raise ValueError(f"{kind}.seed: found {seed!r}, expected a whole number of at least 0")
    attack_class = ATTACKS.load(kind)
    place = _place_on_curve(attack_class.curve, options)
    strength = options.pop("strength", 1.0)
    parameters = inspect.signature(attack_class).parameters
    for key in options:
        if key not in parameters:
            raise ValueError(f"{kind} has no '{key}'" + _hint(key, [*parameters, "name", "seed", "strength"]))
    missing = [key for key, parameter in parameters.items() if parameter.default is parameter.empty]
    missing = [key for key in missing if key not in options]
    if missing:
        raise ValueError(f"{kind} needs {', '.join(missing)}; found {', '.join(options) or 'nothing'}")
    attack: Attack = attack_class.from_options(options, make_attack)
    attack = attack if strength == 1.0 else attack.at_strength(strength)
    attack.name, attack.seed, attack.curve_strength = str(name), seed, place
    return attack


def _place_on_curve(curve: Curve | None, options: Spec) -> float | None:
    """The strength where an attack with these options lies on its kind's curve; None where it lies elsewhere."""
    number = None if curve is None else options.get(curve.argument)
    if curve is None or isinstance(number, bool) or not isinstance(number, int | float):
        return None
    return float(number) if options == {**curve.fixed, curve.argument: number} else None


def _hint(found: str, known: Sequence[str]) -> str:
    return ": " + did_you_mean(found, known, f"there are {', '.join(known)}")

"""The tables of a fingerprint's evaluation, made from results by name; whatever was not measured is left out."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence

from lightning_modules.attacks.registry import curves as attack_curves
from lightning_modules.evaluation.conditions import CLEAN, Condition
from lightning_modules.metrics.intervals import Estimate
from lightning_modules.reporting.formatting import format_interval, format_number, format_percent
from lightning_modules.reporting.page import Cell, Headline, Table

Results = Mapping[str, Estimate]

KIND_TITLES = {
    "unmarked": "no fingerprint",
    "wrong_key": "another key",
    "other_generator": "another generator",
    "real": "real images",
    "all": "all together",
}
QUALITY_TITLES = {
    "fid_before": ("FID, images without fingerprint", "against real images"),
    "fid_after": ("FID, fingerprinted images", "against real images"),
    "fid_own": ("FID to the generator's own images", "fingerprinted images"),
    "fid_own_floor": ("FID, its floor", "two halves of the generator's own images"),
    "fid_added": ("FID, what the fingerprint adds", "the distance less its floor; about 0 where keys change nothing"),
    "psnr": ("PSNR in dB", "unmarked against marked image, higher is nearer"),
    "ssim": ("SSIM", "unmarked against marked image, 1 is equal"),
    "lpips": ("LPIPS", "unmarked against marked image, 0 is equal"),
    "perceptual": ("perceptual distance", "unmarked against marked image, 0 is equal; not LPIPS"),
}
_ACCURACIES = {"bit_accuracy": "bit accuracy", "attribution_accuracy": "attribution accuracy"}
_NUMBERS = {"fid": "FID"}


def other_attacks(conditions: Sequence[Condition]) -> list[str]:
    """The attacks that belong to no strength grid, without `clean`."""
    return [each.name for each in conditions if each.kind != CLEAN and not each.of_grid]


def strength_curves(
    results: Results, conditions: Sequence[Condition], metric: str = "bit_accuracy"
) -> dict[str, list[tuple[float, Estimate]]]:
    """Points (strength, metric) by kind of attack, one a strength; kinds without any are absent."""
    curves: dict[str, dict[float, Estimate]] = {}
    for each in conditions:
        estimate = results.get(f"test/{each.name}/{metric}")
        if each.strength is not None and estimate is not None and not math.isnan(estimate.value):
            curves.setdefault(each.kind, {})[each.strength] = estimate
    return {kind: list(curves[kind].items()) for kind in attack_curves() if kind in curves}


def worst_attack(results: Results, conditions: Sequence[Condition]) -> tuple[str, Estimate] | None:
    """The attack outside the grids with the least bit accuracy, and that accuracy; None where there is none."""
    measured = [(name, results.get(f"test/{name}/bit_accuracy")) for name in other_attacks(conditions)]
    known = [(name, found) for name, found in measured if found is not None and not math.isnan(found.value)]
    return min(known, key=lambda entry: entry[1].value, default=None)


def rate_text(rate: float) -> str:
    """A false-positive rate as written: `0.05`, `0.001`, `1e-6`."""
    return f"{rate:g}".replace("e-0", "e-")


def robustness_table(results: Results, attacks: Sequence[str], caption: str = "") -> Table | None:
    """Attack by bit accuracy, attribution accuracy, true-positive rates and FID, with intervals."""
    rates = {}
    for rate, name in _numbers(results, "tpr_at_"):
        rates[name] = f"TPR at {rate_text(rate)}, {_among(rate)}"
        rates[name.replace("tpr_at_", "tpr_bits_at_")] = f"by bits alone, {rate_text(rate)}"
    return by_attack(results, attacks, {**_ACCURACIES, **rates}, caption, numbers=_NUMBERS)


FAMILY_RATE = 1e-6
"""Largest chance to name anybody wrongly that `predict` works at by default."""


def _among(rate: float) -> str:
    """Among how many users that rate of one user is one of 1e-6 over all."""
    users = round(FAMILY_RATE / rate) if rate <= FAMILY_RATE else 1
    return "one user" if users == 1 else f"{users:,} users at 1e-6 together"


def identification_table(results: Results, attacks: Sequence[str], caption: str = "") -> Table | None:
    """Attack by share of images whose user is found among N."""
    users = {name: f"among {int(n):,} users" for n, name in sorted(_numbers(results, "identification_"))}
    return by_attack(results, attacks, users, caption)


def calibration_table(results: Results, attacks: Sequence[str], caption: str = "") -> Table | None:
    """Attack by cross-entropy, calibration error and overconfidence."""
    names = {"cross_entropy": "cross-entropy in bits", "calibration_error": "calibration error"}
    table = by_attack(results, attacks, {}, caption, numbers=names)
    if table is None or "calibration error" not in table.columns:
        return table
    found = [results.get(f"test/{row[0]}/calibration_error") for row in table.rows]
    over = [None if one is None else one.details.get("overconfidence") for one in found]
    if not any(value is not None for value in over):
        return table
    rows = [[*row, value] for row, value in zip(table.rows, over, strict=True)]
    return Table([*table.columns, "overconfidence"], rows, caption)


def false_positive_table(results: Results, caption: str = "") -> Table | None:
    """Kind of negative by nominal rate: observed against nominal, in words whether it is missed."""
    rows: list[list[Cell]] = []
    for kind in _kinds(results):
        prefix = f"test/negatives/{kind}/false_positive_rate_"
        for rate, name in sorted(_numbers(results, prefix, whole=True), reverse=True):
            found = results[name]
            facts = found.details
            nominal = float(facts.get("nominal", rate))
            rows.append(
                [
                    KIND_TITLES.get(kind, kind),
                    rate_text(nominal),
                    found,
                    _count(facts.get("false_positives"), found.n),
                    _passed(None if found.low is None or not found.n else found.low <= nominal),
                    _passed(facts.get("nominal_inside") if found.n else None),
                ]
            )
    columns = ["negatives", "nominal", "observed", "found", "at most nominal", "interval holds nominal"]
    right = ["nominal", "found", "at most nominal", "interval holds nominal"]
    return Table(columns, rows, caption, right=right) if rows else None


def registry_table(results: Results, caption: str = "") -> Table | None:
    """Kind of negative by nominal rate: the mean and the worst share over random registries of one user."""
    rows: list[list[Cell]] = []
    for kind in _kinds(results):
        prefix = f"test/negatives/{kind}/registry_false_positive_rate_"
        for rate, name in sorted(_numbers(results, prefix, whole=True), reverse=True):
            worst = results[name.replace("/registry_", "/worst_registry_")]
            shares = [
                results[name].value,
                worst.value,
                *map(worst.details.get, ("worst_if_independent", "above_nominal")),
            ]
            rows.append(
                [KIND_TITLES.get(kind, kind), rate_text(rate), worst.n, worst.details.get("registries"), *shares]
            )
    columns = ["negatives", "nominal", "images", "registries", "mean", "worst", "worst expected", "above nominal"]
    return Table(columns, rows, caption, right=["nominal"], percent=columns[4:]) if rows else None


def negative_bits_table(results: Results, caption: str = "") -> Table | None:
    """Kind of negative by bit accuracy, which is 1/2 where nothing is read that is not there."""
    rows: list[list[Cell]] = []
    for kind in _kinds(results):
        found = results.get(f"test/negatives/{kind}/bit_accuracy")
        if found is not None:
            half = None if found.low is None or found.high is None or not found.n else found.low <= 0.5 <= found.high
            rows.append([KIND_TITLES.get(kind, kind), found, found.n, _passed(half)])
    columns = ["negatives", "bit accuracy", "images", "interval holds 50 %"]
    return Table(columns, rows, caption, percent=["bit accuracy"], right=columns[-1:]) if rows else None


def quality_table(results: Results, caption: str = "") -> Table | None:
    """FIDs and what separates a marked image from the unmarked one."""
    measured = {name.removeprefix("test/quality/"): found for name, found in results.items() if "/quality/" in name}
    order = [name for name in QUALITY_TITLES if name in measured] + sorted(set(measured) - set(QUALITY_TITLES))
    rows: list[list[Cell]] = []
    for name in order:
        title, meaning = QUALITY_TITLES.get(name, (name.replace("_", " "), ""))
        rows.append([title, meaning, measured[name], measured[name].n])
    return Table(["measure", "of what", "value", "images"], rows, caption) if rows else None


def by_attack(
    results: Results,
    attacks: Sequence[str],
    shares: Mapping[str, str],
    caption: str,
    numbers: Mapping[str, str] | None = None,
) -> Table | None:
    """One row an attack, one column a metric, shares in percent; rows and columns without a number are left out."""
    names = {**shares, **(numbers or {})}
    shown = {name: title for name, title in names.items() if any(f"test/{a}/{name}" in results for a in attacks)}
    rows: list[list[Cell]] = []
    for attack in attacks:
        found = [results.get(f"test/{attack}/{name}") for name in shown]
        known = [estimate for estimate in found if estimate is not None]
        if known:
            rows.append([attack, max(estimate.n for estimate in known), *found])
    if not rows:
        return None
    columns = list(shown.values())
    percent = [title for name, title in shown.items() if name in shares]
    return Table(["attack", "images", *columns], rows, caption, percent=percent)


def _numbers(results: Results, part: str, *, whole: bool = False) -> list[tuple[float, str]]:
    """Numbers that end names after `part` (`1e-3` of `tpr_at_1e-3`), largest first, with the name.

    The name is the last part of a result's name, or all of it where `part` is the `whole` beginning.
    """
    pattern = re.compile(rf"{re.escape(part)}(\d[\d_e+-]*)$")
    found = {}
    for name in results:
        if (match := (pattern.match(name) if whole else pattern.search(name))) is not None:
            number = float(re.sub(r"(?<=\d)_(?=\d)", ".", match[1]))  # rates are named without a point: 2_5e-3
            found[name if whole else name.rpartition("/")[2]] = number
    return sorted(((number, name) for name, number in found.items()), reverse=True)


def _kinds(results: Results) -> list[str]:
    found = {name.split("/")[2] for name in results if name.startswith("test/negatives/")}
    return [kind for kind in KIND_TITLES if kind in found and kind != "all"] + [
        *sorted(found - set(KIND_TITLES)),
        *(["all"] if "all" in found else []),
    ]


def _count(found: object, n: int) -> str | None:
    return None if found is None else f"{found:,} of {n:,}"


def _passed(holds: object) -> str | None:
    return None if holds is None else ("pass" if holds else "fail")


def fingerprint_headlines(results: Results, conditions: Sequence[Condition], bits: int) -> list[Headline]:
    """Accuracy without attack and under the worst, true-positive rate, FID: those whose numbers are there."""
    headlines = []
    if (clean := results.get("test/clean/bit_accuracy")) is not None:
        headlines.append(Headline.of("Bit accuracy", clean, percent=True, note="no attack; chance 50 %"))
    if (whole := results.get("test/clean/attribution_accuracy")) is not None:
        note = f"all {bits} bits right; no attack"
        headlines.append(Headline.of("Attribution accuracy", whole, percent=True, note=note))
    if (worst := worst_attack(results, conditions)) is not None:
        headlines.append(Headline.of("Bit accuracy, worst attack", worst[1], percent=True, note=worst[0]))
    if (found := results.get("test/clean/tpr_at_1e-6")) is not None:
        note = "no attack; one user"
        if (alone := results.get("test/clean/tpr_bits_at_1e-6")) is not None and not math.isnan(alone.value):
            note += f"; by matching bits alone {format_percent(alone.value)}"
        if not found.details.get("within_reach", True):
            note = f"not even all {bits} bits are good enough"
        headlines.append(Headline.of("True-positive rate at FPR 1e-6", found, percent=True, note=note))
    return headlines + _fid(results)


def _fid(results: Results) -> list[Headline]:
    before, after = results.get("test/quality/fid_before"), results.get("test/quality/fid_after")
    if before is None or after is None:
        own = results.get("test/quality/fid_own")
        return [] if own is None else [Headline.of("FID", own, note="against the generator's own images")]
    note = f"without and with fingerprint, against real images; n\N{NO-BREAK SPACE}=\N{NO-BREAK SPACE}{after.n:,}"
    if before.low is not None and after.low is not None:
        note = f"{format_interval(before)} → {format_interval(after)}; {note}"
    return [Headline("FID before → after", f"{format_number(before.value)} → {format_number(after.value)}", note)]

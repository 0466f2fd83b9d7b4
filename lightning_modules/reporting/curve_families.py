"""Robustness curves of several experiments: each metric over the strength of each kind of attack."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from lightning_modules.attacks.curves import Curve
from lightning_modules.metrics.intervals import Estimate
from lightning_modules.reporting.experiments import Group
from lightning_modules.reporting.long_table import CLEAN, curve_points
from lightning_modules.reporting.strengths import curve_of, in_order

MAIN_PARTS = ("marked", "test", "quality")
TITLES = {
    "attribution_accuracy": "Attribution accuracy",
    "bit_accuracy": "Bit accuracy",
    "accuracy": "Accuracy",
    "accuracy_macro": "Accuracy, mean over sources",
    "fid": "FID",
    "fdr": "FDR",
}
"""Metrics that get curves, in the order shown; true-positive rates do as well."""
_SHARES = (
    *("accuracy", "recall", "chance", "majority", "tpr_", "identification", "false_positive_rate"),
    *("registry_false_positive_rate", "worst_registry_false_positive_rate"),
)


@dataclass(frozen=True)
class Line:
    """One experiment's curve."""

    label: str
    points: Sequence[tuple[float, Estimate]]  # by strength
    clean: Estimate | None  # without attack
    place: int  # of the experiment in the comparison: its colour and marker


@dataclass(frozen=True)
class Panel:
    """The curves of one kind of attack."""

    kind: str
    curve: Curve
    lines: Sequence[Line]

    @property
    def strengths(self) -> list[float]:
        """All strengths, from the weakest attack on."""
        found = {strength for line in self.lines for strength, _ in line.points}
        return sorted(found, reverse=self.curve.weaker_is_larger)


@dataclass(frozen=True)
class Family:
    """The curves of one metric."""

    part: str
    metric: str
    panels: Sequence[Panel]

    @property
    def title(self) -> str:
        """The metric, and what it is of where that is not the test itself."""
        title = metric_title(self.metric)
        return title if self.main else f"{title}, {self.part.replace('/', ' ')}"

    @property
    def main(self) -> bool:
        """Whether it is of the test itself, not of a control."""
        return self.part in MAIN_PARTS

    @property
    def share(self) -> bool:
        """Whether values are shares, to be shown in percent."""
        return is_share(self.metric)


def metric_title(metric: str) -> str:
    """A metric's name as a reader wants it."""
    if metric.startswith("tpr_at_"):
        return f"True-positive rate at FPR {metric.removeprefix('tpr_at_').replace('_', '.')}"
    return TITLES.get(metric, metric.replace("_", " "))


def is_share(metric: str) -> bool:
    """Whether a metric is a share in [0, 1], by its name in the long table or in `metrics.json`."""
    last = metric.rpartition("/")[2]
    return last.startswith(_SHARES) or last.endswith("accuracy") or "recall" in metric.split("/")


def curve_families(groups: Sequence[Group]) -> list[Family]:
    """The curves of all experiments: those of the test itself first, metrics in the order of `TITLES`."""
    found: dict[tuple[str, str], dict[str, list[Line]]] = {}
    for place, group in enumerate(groups):
        conditions = group.conditions.values()
        for part, metric in dict.fromkeys((result.part, result.metric) for result in conditions):
            if metric not in TITLES and not metric.startswith("tpr_at_"):
                continue
            clean = group.results.get((part, CLEAN, metric))
            for kind, results in curve_points(conditions, part, metric).items():
                points = [
                    (float(result.strength or 0.0), group.results[result.key].estimate())
                    for result in results
                    if math.isfinite(group.results[result.key].mean)
                ]
                line = Line(group.label, points, None if clean is None else clean.estimate(), place)
                found.setdefault((part, metric), {}).setdefault(kind, []).append(line)
    families = [Family(part, metric, _panels(lines)) for (part, metric), lines in found.items()]
    return sorted((one for one in families if one.panels), key=_order)


def _panels(lines: Mapping[str, Sequence[Line]]) -> list[Panel]:
    curves = {kind: curve_of(kind) for kind in in_order(lines)}
    return [Panel(kind, curve, lines[kind]) for kind, curve in curves.items() if curve is not None]


def _order(family: Family) -> tuple[int, int, str, str]:
    names = list(TITLES)
    place = names.index(family.metric) if family.metric in names else len(names)
    return int(not family.main), place, family.part, family.metric

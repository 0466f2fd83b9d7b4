"""Differences between experiments, each with an interval and with how the interval was made."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from lightning_modules.metrics.differences import (
    Scores,
    independent_difference,
    paired_macro_shares,
    paired_means,
    paired_shares,
)
from lightning_modules.metrics.intervals import Estimate
from lightning_modules.reporting.experiments import Group
from lightning_modules.reporting.long_table import Key, Result
from lightning_modules.reporting.row_scores import RowScores
from lightning_modules.reporting.runs import Run

COMPARED = ("accuracy", "accuracy_macro", "fdr", "bit_accuracy", "attribution_accuracy", "fid")
COMPARED_BEGINNINGS = ("tpr_at_", "fid_")
_SAME = 1e-9  # a mean over rows that is farther from the reported number is not of the same images
_LATENTS = ("model.init_args.generator", "model.init_args.key.latent_prior")  # with the seed, what images are made of


@dataclass(frozen=True)
class Difference:
    """One number of an experiment less that of the experiment that it is compared with."""

    label: str  # of the experiment
    base: str  # of the one that is taken away
    result: Result  # of the experiment's first run: part, attack, kind, strength, metric
    estimate: Estimate  # the difference; `interval` says how its interval was made

    @property
    def clear(self) -> bool:
        """Whether the interval leaves out 0."""
        low, high = self.estimate.low, self.estimate.high
        return low is not None and high is not None and (low > 0 or high < 0)


def differences(groups: Sequence[Group]) -> list[Difference]:
    """Every experiment less the first one, in what both have measured under the same conditions.

    Experiments of one seed each are compared image by image where both have seen the same images; those that share two
    seeds or more seed by seed; any others as independent. The intervals say how sure each difference is by itself.
    """
    found = []
    for group in groups[1:]:
        pairing = _Pairing(groups[0], group)
        found += [
            Difference(group.label, groups[0].label, result, pairing.difference(result)) for result in pairing.shared
        ]
    return found


def is_compared(metric: str) -> bool:
    """Whether differences are told of a metric; chance levels, calibrations and recalls would only be in the way."""
    return metric in COMPARED or metric.startswith(COMPARED_BEGINNINGS)


def same_images(first: Run, second: Run) -> bool | None:
    """Whether two runs have seen the same images, or images of the same latents; None where nothing says so."""
    one, other = first.rows, second.rows
    if one is None or other is None or one.hashed != other.hashed:
        return None
    if not one.hashed:  # numbered samples are the same images where generator and seed are
        made = all(first.settings.get(name) == second.settings.get(name) for name in _LATENTS)
        if first.seed != second.seed or not made:
            return False
    return np.array_equal(one.images, other.images)


class _Pairing:
    """Two experiments, and how their numbers are paired."""

    def __init__(self, first: Group, second: Group) -> None:
        self.groups = first, second
        self.results = tuple(_by_key(group.runs) for group in self.groups)
        conditions = second.conditions
        self.shared = [one for key, one in conditions.items() if key in first.results and is_compared(one.metric)]
        runs = first.runs[0], second.runs[0]
        self.facts = [_facts(run) for run in runs]
        self.rows: list[RowScores] = []
        if len(first.runs) == len(second.runs) == 1 and same_images(*runs):
            self.rows = [run.rows for run in runs if run.rows is not None]

    def difference(self, result: Result) -> Estimate:
        """Second less first of one number."""
        first, second = (results[result.key] for results in self.results)
        seeds = [seed for seed in first if seed in second]
        if len(seeds) > 1:
            before, after = (np.array([each[seed].estimate.value for seed in seeds]) for each in (first, second))
            return paired_means(before, after, unit="seeds")
        paired = self._over_images(result) if self.rows else None
        if paired is not None:
            return paired
        one, other = (group.results[result.key].estimate() for group in self.groups)
        return independent_difference(one, other)

    def _over_images(self, result: Result) -> Estimate | None:
        if result.part not in ("test", "marked"):
            return None
        sides: list[Scores] = []
        for rows, facts, results in zip(self.rows, self.facts, self.results, strict=True):
            scores = rows.scores(result.attack, result.metric, facts)
            if scores is None:
                return None
            macro = result.metric == "accuracy_macro"
            mean = _macro(scores, rows.sources) if macro else float(scores.mean())
            (reported,) = (one.estimate.value for one in results[result.key].values())
            if not abs(mean - reported) <= _SAME:
                return None
            sides.append(scores)
        first, second = sides
        if result.metric == "accuracy_macro":
            return paired_macro_shares(first, second, self.rows[0].sources.tolist())
        return paired_means(first, second) if result.metric == "bit_accuracy" else paired_shares(first, second)


def _by_key(runs: Iterable[Run]) -> dict[Key, dict[str, Result]]:
    """Numbers that are defined, by key and seed."""
    found: dict[Key, dict[str, Result]] = {}
    for run in runs:
        for result in run.results:
            if not math.isnan(result.estimate.value):
                found.setdefault(result.key, {})[run.seed] = result
    return found


def _facts(run: Run) -> Mapping[str, Any]:
    """Length of a key, and what a true positive needs by metric, from the details of `metrics.json`."""
    facts: dict[str, Any] = {}
    for name, estimate in run.metrics.items():
        metric = name.rpartition("/")[2]
        if "bits" in estimate.details:
            facts["bits"] = int(estimate.details["bits"])
        if metric.startswith("tpr_"):
            names = ("bits_needed", "false_positive_rate")
            facts[metric] = {name: estimate.details[name] for name in names if name in estimate.details}
    return facts


def _macro(scores: Any, sources: Any) -> float:
    return float(np.mean([scores[sources == source].mean() for source in np.unique(sources)]))

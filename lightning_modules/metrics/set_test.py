"""Whether a set of images comes from one source: exact permutation p-values, and what they promise."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Numbers = NDArray[np.float64]
MOST_DRAWS, FEWEST_DRAWS = 9_999, 999
_WORK = 2e7  # random numbers a source
_CHUNK = 2**22


@dataclass(frozen=True)
class SetVerdict:
    """What a set of images of one source says.

    Attributes:
        p_values: By source: of the hypothesis that the set is of that source.
        log_probabilities: By source: sum over the images of the logarithm of its probability.
        named: The source of the greatest sum; None where its p-value refuses it.
        not_refused: Sources whose p-value is above the level: the true one is among them with a probability of at least
            1 - level, if it is one of the trained ones.
        none_of_these: p-value of the hypothesis that the set is of any of the trained sources, the largest of all.
        others: p-value of the hypothesis that it is of any but the named one; None where none is named.
    """

    p_values: dict[str, float]
    log_probabilities: dict[str, float]
    named: str | None
    not_refused: list[str]
    none_of_these: float
    others: float | None


def permutation_p_values(observed: Numbers, reference: Numbers, seed: int, draws: int | None = None) -> Numbers:
    """P-values `(S,)` of the hypothesis that observed and reference images are draws from one source, for S scores.

    The statistic is the sum of a score over the m observed images; a *small* one speaks against the hypothesis. It is
    ranked among the sums of random subsets of m of all m + n images (the two-sample permutation test, which is
    conformal prediction with a set for a sample):

        p = (1 + number of subsets whose sum is not above the observed) / (1 + number of subsets).

    **Claim.** If all m + n images are exchangeable, as independent draws from one source are, then P(p <= a) <= a for
    every a, over draws of images and subsets, whatever the scores, m and n, however few the subsets (Lehmann and
    Romano, "Testing statistical hypotheses", Sec. 15.2). It needs scores that treat observed and reference images
    alike: of networks that were trained on neither. It does not hold for copies or frames of one picture, which are not
    independent, nor for images whose content or processing differs from that of the reference: these are then what is
    found.

    Args:
        observed: Scores `(m, S)`.
        reference: Scores `(n, S)`.
        seed: Of the subsets.
        draws: How many subsets; by default `MOST_DRAWS`, fewer of many images.
    """
    m, total = len(observed), len(observed) + len(reference)
    if not m or not len(reference):
        return np.ones(observed.shape[1])
    pooled = np.concatenate([observed, reference])
    draws = int(min(MOST_DRAWS, max(FEWEST_DRAWS, _WORK // total))) if draws is None else draws
    seen = pooled[:m].sum(axis=0)
    slack = 1e-9 * np.abs(pooled).sum(axis=0)  # sums in another order: equal sets must count as equal
    rng = np.random.default_rng([seed, m, total])
    not_above = np.zeros(observed.shape[1])
    for begin in range(0, draws, each := max(1, _CHUNK // total)):
        keys = rng.random((min(each, draws - begin), total))
        subsets = keys <= np.partition(keys, m - 1, axis=1)[:, m - 1 : m]
        sums = subsets @ pooled
        not_above += (sums <= seen + slack).sum(axis=0)
    return np.asarray((1 + not_above) / (1 + draws))


def set_verdict(
    observed: Mapping[str, Numbers],
    reference: Mapping[str, Numbers],
    level: float = 0.05,
    seed: int = 0,
    draws: int | None = None,
) -> SetVerdict:
    """The verdict over a set of images from one source.

    For each trained source the hypothesis *the set is of that source* is tested by S scores at once
    (`permutation_p_values`, against validation images of that source) and the smallest p-value is multiplied by S
    (Bonferroni). From these p-values follow, at any level a and without a further correction:

    - the true source, if it is a trained one, is among `not_refused` with a probability of at least 1 - a;
    - under *the set is of one of the trained sources*, P(`none_of_these` <= a) <= a: the largest p-value is not below
      that of the true source;
    - under *the set is of a trained source s*, the probability that another one is named with `others` <= a is at most
      a: then `others` is not below the p-value of s.

    Nothing is promised of sources that are not trained: they are refused in so far as their scores are unlike those of
    every trained one. The few numbers that validation images have set (a temperature, the weights of a fusion) make
    scores and validation images not exactly exchangeable with others; scores here are those before the temperature.

    Args:
        observed: Scores `(m, S)` by trained source, a small one speaks against it; the first is the logarithm of the
            source's probability.
        reference: Scores `(n, S)` of validation images of each.
        level: Largest p-value that refuses a source.
        seed: Of the subsets.
        draws: As in `permutation_p_values`.
    """
    p_values = {}
    for place, (source, scores) in enumerate(observed.items()):
        each = permutation_p_values(scores, reference[source], seed + 7919 * place, draws)
        p_values[source] = min(1.0, float(each.min()) * len(each))
    not_refused = sorted((each for each in p_values if p_values[each] > level), key=lambda each: -p_values[each])
    sums = {source: float(scores[:, 0].sum()) for source, scores in observed.items()}
    best = max(sums, key=sums.__getitem__)
    named = best if best in not_refused else None
    others = None if named is None else max((p for source, p in p_values.items() if source != named), default=None)
    return SetVerdict(p_values, sums, named, not_refused, max(p_values.values()), others)

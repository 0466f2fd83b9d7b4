"""Galleries of a few images of each source: who is nearest, and how the rest is ranked."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from lightning_modules.metrics.intervals import Estimate, student_interval

SHOTS = (1, 5, 10)
DRAWS = 10
"""Random galleries of each size, over which mean and spread are taken."""


def rank_one_and_map(
    queries: NDArray[np.floating], labels: NDArray[np.int64], gallery: NDArray[np.floating], known: NDArray[np.int64]
) -> tuple[NDArray[np.bool_], NDArray[np.float64]]:
    """Whether the nearest entry is of the query's source, and the average precision, of each query.

    The gallery's entries are ranked by cosine similarity to a query; of equal ones the first comes first. The average
    precision of a query is the mean, over entries of its source, of the precision at their ranks.

    Args:
        queries: Features `(Q, d)` of unit length.
        labels: Sources `(Q,)`, each of them in the gallery.
        gallery: Features `(G, d)` of unit length.
        known: Sources `(G,)`.
    """
    order = np.argsort(-(queries @ gallery.T), axis=1, kind="stable")
    relevant = known[order] == labels[:, None]
    precision = np.cumsum(relevant, axis=1) / np.arange(1, len(known) + 1)
    return relevant[:, 0], (precision * relevant).sum(axis=1) / relevant.sum(axis=1)


def few_shot_estimates(
    features: NDArray[np.floating], labels: NDArray[np.int64], unknown: NDArray[np.int64], seed: int
) -> dict[str, Estimate]:
    """`rank1` and `map` of galleries of 1, 5 and 10 images of every source, by name `1_shot/rank1` ...

    Each of `DRAWS` galleries is drawn from the images themselves; queries are the images of the `unknown` sources that
    are not in it, each source with the same weight. The interval is Student's over draws, which share images: it says
    how much the choice of the images matters, no more. A size that leaves a source without a query is left out.

    Args:
        features: `(N, d)` of unit length, in a fixed order.
        labels: `(N,)`.
        unknown: Labels of the sources that are asked for.
        seed: Of the draws.
    """
    found: dict[str, Estimate] = {}
    places = {label: np.flatnonzero(labels == label) for label in np.unique(labels).tolist()}
    for shots in SHOTS:
        if min(map(len, places.values())) <= shots:
            continue
        scores: dict[str, list[float]] = {"rank1": [], "map": []}
        for draw in range(DRAWS):
            rng = np.random.default_rng([seed, shots, draw])
            taken = np.concatenate([np.sort(rng.choice(each, shots, replace=False)) for each in places.values()])
            means: dict[str, list[float]] = {"rank1": [], "map": []}
            for label in unknown.tolist():
                asked = np.setdiff1d(places[label], taken)
                first, precision = rank_one_and_map(features[asked], labels[asked], features[taken], labels[taken])
                means["rank1"].append(float(first.mean()))
                means["map"].append(float(precision.mean()))
            for name, values in means.items():
                scores[name].append(float(np.mean(values)))
        for name, values in scores.items():
            mean = float(np.mean(values))
            half, std = student_interval(mean, float(np.square(values).sum()), DRAWS, 0.95)
            details = {"std": std, "draws": DRAWS, "sources": len(places), "chance": 1 / len(places)}
            queries = sum(len(places[label]) - shots for label in unknown.tolist())
            ends = max(0.0, mean - half), min(1.0, mean + half)
            found[f"{shots}_shot/{name}"] = Estimate(mean, *ends, queries, "student t 95% over draws", details)
    return found

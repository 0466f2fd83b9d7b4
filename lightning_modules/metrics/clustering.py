"""Do clusters of features follow how generators are made (ManiFPT, Table 5)?

k-means clusters of features against a design choice of their sources (kind of upsampling, loss ...), by normalised
mutual information (Strehl and Ghosh, "Cluster ensembles", JMLR 2002): `I(clusters; labels) / mean(H(clusters),
H(labels))`, 0 to 1; k is the number of different labels.

NMI of few sources is high by itself: clusters that follow sources split any choice that does. So it has its chance
level beside it: the same clusters against the choices dealt out anew among the *sources*, not among images, whose
labels are not independent.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from lightning_modules.common.random_streams import stream_of

SHUFFLES = 100
_STARTS = 10  # of k-means, the best of which counts


@dataclass(frozen=True)
class ClusterAgreement:
    """NMI of one design choice."""

    nmi: float  # mean over seeds of k-means
    chance: float  # mean over shuffles of the choices among sources, and over seeds
    chance_high: float  # 95th percentile of the shuffles' means over seeds
    p_value: float  # share of shuffles that reach the NMI, itself counted
    clusters: int
    n: int  # points: images, or sources


def cluster_agreements(
    features: NDArray[np.floating],
    sources: Sequence[str],
    designs: Mapping[str, Mapping[str, str]],
    seeds: Sequence[int] = (0, 1, 2, 3, 4),
    shuffles: int = SHUFFLES,
) -> dict[str, ClusterAgreement]:
    """Agreement of k-means clusters of points `(N, d)` with each design choice of their sources.

    Args:
        features: One row a point.
        sources: Of each point, `(N,)`; points of sources that have not made a choice are left out.
        designs: Choices by source, by what is chosen: `{"skip": {"gan-a": "residual", ...}, ...}`.
        seeds: Of k-means; the numbers are means over them.
        shuffles: How often the choices are dealt out anew.

    Returns:
        By what is chosen; without those where all sources chose alike, and where there are no more points than choices.
    """
    found = {}
    counts: dict[tuple[int, tuple[str, ...]], list[NDArray[np.float64]]] = {}  # clusters are the same where k is
    for design, choices in designs.items():
        known = np.array([source in choices for source in sources])
        names = sorted({source for source in sources if source in choices})
        labels = sorted({choices[name] for name in names})
        if len(labels) < 2 or int(known.sum()) <= len(labels):
            continue
        key = len(labels), tuple(names)
        if key not in counts:
            points = np.asarray(features, dtype=np.float64)[known]
            places = np.array([names.index(source) for source in sources if source in choices])
            counts[key] = [_counted(_clusters(points, len(labels), seed), places) for seed in seeds]
        of_source = np.eye(len(labels))[[labels.index(choices[name]) for name in names]]  # (S, L)
        dealt = [of_source, *(stream_of(0, place).permutation(of_source) for place in range(shuffles))]
        each = [[normalised_mutual_information(table @ one) for one in dealt] for table in counts[key]]
        nmi, *shuffled = np.mean(each, axis=0).tolist()
        reached = sum(value >= nmi - 1e-12 for value in shuffled)
        found[design] = ClusterAgreement(
            nmi=nmi,
            chance=float(np.mean(shuffled)),
            chance_high=float(np.quantile(shuffled, 0.95)),
            p_value=(reached + 1) / (shuffles + 1),
            clusters=len(labels),
            n=int(known.sum()),
        )
    return found


def normalised_mutual_information(counts: NDArray[np.floating]) -> float:
    """NMI of two labellings from how often each pair of labels occurs, `(k, l)`; 1 where both have one label.

    `scikit-learn`'s `normalized_mutual_info_score` with its arithmetic mean of entropies, without its passes over all
    points.
    """
    joint = np.asarray(counts, dtype=np.float64) / np.sum(counts)
    rows, columns = joint.sum(axis=1), joint.sum(axis=0)
    entropies = _entropy(rows) + _entropy(columns)
    if entropies == 0:
        return 1.0
    return max(0.0, float(2 * (entropies - _entropy(joint.ravel())) / entropies))


def _entropy(shares: NDArray[np.float64]) -> float:
    positive = shares[shares > 0]
    return float(-(positive * np.log(positive)).sum())


def _counted(clusters: NDArray[np.int64], places: NDArray[np.int64]) -> NDArray[np.float64]:
    """Points of each source in each cluster, `(k, S)`."""
    table = np.zeros((clusters.max() + 1, places.max() + 1))
    np.add.at(table, (clusters, places), 1)
    return table


def source_means(features: NDArray[np.floating], sources: Sequence[str]) -> tuple[NDArray[np.float64], list[str]]:
    """Mean of the points of each source `(S, d)`, and the sources, sorted."""
    names = sorted(set(sources))
    own = np.array(sources)
    return np.stack([np.asarray(features[own == name], dtype=np.float64).mean(axis=0) for name in names]), names


def _clusters(points: NDArray[np.float64], clusters: int, seed: int) -> NDArray[np.int64]:
    from sklearn.cluster import KMeans

    with threadpool_limits(1):  # the same digits twice
        found: NDArray[np.int64] = KMeans(clusters, n_init=_STARTS, random_state=seed).fit_predict(points)
    return found

"""Do clusters of features follow how generators are made (ManiFPT, Table 5)?

k-means clusters of features against a design choice of their sources (kind of upsampling, loss ...), by normalised
mutual information (Strehl and Ghosh, "Cluster ensembles", JMLR 2002): `I(clusters; labels) / mean(H(clusters),
H(labels))`, 0 to 1; k is the number of different labels.

NMI of few sources is high by itself: clusters that follow sources split any choice that does. So it has its chance
level beside it: the same clusters against the choices dealt out anew among the *sources*, not among images, whose labels
are not independent.
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


def cluster_agreement(
    features: NDArray[np.floating],
    sources: Sequence[str],
    choices: Mapping[str, str],
    seeds: Sequence[int] = (0, 1, 2, 3, 4),
    shuffles: int = SHUFFLES,
) -> ClusterAgreement | None:
    """Agreement of k-means clusters of points `(N, d)` with a choice of their sources.

    Args:
        features: One row a point.
        sources: Of each point, `(N,)`; points of sources without a choice are left out.
        choices: By source.
        seeds: Of k-means; the numbers are means over them.
        shuffles: How often the choices are dealt out anew.

    Returns:
        None where fewer than two choices, or all different ones of too few points, leave nothing to compare.
    """
    known = np.array([source in choices for source in sources])
    names = sorted({source for source in sources if source in choices})
    labels = sorted({choices[name] for name in names})
    if len(labels) < 2 or int(known.sum()) <= len(labels):
        return None
    points = np.asarray(features, dtype=np.float64)[known]
    of_point = np.array([names.index(source) for source in sources if source in choices])
    of_source = np.array([labels.index(choices[name]) for name in names])
    dealt = [of_source, *(stream_of(0, place).permutation(of_source) for place in range(shuffles))]
    found = np.zeros((len(seeds), len(dealt)))
    for row, seed in enumerate(seeds):
        clusters = _clusters(points, len(labels), seed)
        found[row] = [normalised_mutual_information(clusters, each[of_point]) for each in dealt]
    means = found.mean(axis=0)
    shuffled = means[1:]
    reached = int((shuffled >= means[0] - 1e-12).sum())
    return ClusterAgreement(
        nmi=float(means[0]),
        chance=float(shuffled.mean()),
        chance_high=float(np.quantile(shuffled, 0.95)),
        p_value=(reached + 1) / (shuffles + 1),
        clusters=len(labels),
        n=len(points),
    )


def normalised_mutual_information(one: NDArray[np.int64], other: NDArray[np.int64]) -> float:
    """NMI of two labellings `(N,)`, divided by the mean of their entropies; 1 where both have one label."""
    from sklearn.metrics import normalized_mutual_info_score

    return float(normalized_mutual_info_score(one, other))


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

"""t-SNE of features, one colour per source (ManiFPT shows penultimate features so)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import ArrayLike, NDArray

from lightning_modules.reporting.figures.style import as_array, new_figure, source_styles, styled

_STEPS = 500  # a thousand points have settled by then; more steps would cost a report many seconds


def tsne(features: ArrayLike, *, seed: int = 0, perplexity: float = 30.0) -> NDArray[np.float64]:
    """Two t-SNE coordinates of each row (van der Maaten and Hinton, JMLR 2008), the same for the same seed.

    Features are projected on their 50 leading principal components first, as the paper's authors advise, and start
    from the first two, so that the large arrangement means something.

    Args:
        features: `(N, d)`, N >= 5, finite.
        seed: of the optimisation.
        perplexity: about how many neighbours count; lowered for small N.

    Raises:
        ValueError: fewer than five rows, another shape, or values that are not finite.
    """
    from sklearn.decomposition import PCA
    from sklearn.manifold import TSNE
    from threadpoolctl import threadpool_limits

    rows = as_array(features).astype(np.float64)
    if rows.ndim != 2 or len(rows) < 5:
        raise ValueError(f"features have shape {rows.shape}; expected (N, d) with N >= 5")
    if not np.isfinite(rows).all():
        raise ValueError("features hold NaN or infinity; t-SNE needs finite numbers")
    # One thread: the order in which threads add up their parts would change the picture from run to run.
    with threadpool_limits(limits=1):
        if rows.shape[1] > 50:
            rows = PCA(n_components=min(50, len(rows)), svd_solver="randomized", random_state=seed).fit_transform(rows)
        start = "pca" if rows.shape[1] >= 2 else "random"
        neighbours = min(perplexity, (len(rows) - 1) / 3)
        fitted = TSNE(perplexity=neighbours, init=start, max_iter=_STEPS, random_state=seed, n_jobs=1)
        return np.asarray(fitted.fit_transform(rows), dtype=np.float64)


@styled
def tsne_figure(
    features: ArrayLike, labels: ArrayLike, sources: Sequence[str], *, seed: int = 0, max_points: int = 1000
) -> Figure:
    """t-SNE map of features, a colour and marker per source.

    Args:
        features: `(N, d)`.
        labels: `(N,)` integers, position in `sources`.
        sources: K names.
        seed: of the subset and the optimisation.
        max_points: more features than this are thinned out evenly at random, for time and legibility; the figure says
            so.

    Raises:
        ValueError: shapes do not fit, or the features suit no t-SNE.
    """
    rows, targets = as_array(features), as_array(labels)
    if targets.shape != rows.shape[:1]:
        raise ValueError(f"features {rows.shape} and labels {targets.shape}; expected (N, d) and (N,)")
    total = len(rows)
    if total > max_points:
        kept = np.sort(np.random.default_rng(seed).permutation(total)[:max_points])
        rows, targets = rows[kept], targets[kept]
    points = tsne(rows, seed=seed)
    longest = max(len(source) for source in sources)
    figure = new_figure(5.6 + 0.08 * longest, max(5.0, 0.23 * len(sources) + 0.6))
    axes = figure.add_subplot()
    for label, (source, style) in enumerate(source_styles(sources).items()):
        own = points[targets == label]
        look: dict[str, Any] = {"s": 14, "color": style.colour, "marker": style.marker, "alpha": 0.75, "linewidth": 0}
        axes.scatter(*own.T, **look, label=f"{source} ({len(own):,})")
    axes.set_xticks([])
    axes.set_yticks([])
    axes.spines[:].set_visible(True)
    axes.set_aspect("equal", adjustable="datalim")
    axes.set_xlabel(f"t-SNE of {len(rows):,} of {total:,} images; axes have no unit")
    legend = figure.legend(loc="outside right upper", markerscale=1.7, handletextpad=0.3, borderaxespad=0.8)
    for handle in legend.legend_handles:
        if handle is not None:
            handle.set_alpha(1)
    return figure

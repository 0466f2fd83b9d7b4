from __future__ import annotations

import itertools
import math
from io import BytesIO

import matplotlib as mpl
import numpy as np
import pytest
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import PathCollection
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image

from lightning_modules.metrics.intervals import Estimate, proportion
from lightning_modules.reporting.figures.artifact_rows import ArtifactRow, artifact_rows
from lightning_modules.reporting.figures.bars import confusion_matrix, method_accuracy, per_source_accuracy
from lightning_modules.reporting.figures.robustness import training_curves
from lightning_modules.reporting.figures.style import source_styles, to_png
from lightning_modules.reporting.figures.tsne import tsne, tsne_figure

SOURCES = ["real-fashion", "gan-dcgan", "score-ddpm"]
COUNTS = np.array([[8, 2, 0], [3, 1007, 0], [0, 0, 0]])


def texts(figure: Figure) -> list[str]:
    figure.draw_without_rendering()
    return [text.get_text() for text in figure.findobj(mpl.text.Text) if text.get_visible() and text.get_text()]


def pixels(figure: Figure) -> NDArray[np.uint8]:
    return np.asarray(Image.open(BytesIO(to_png(figure))).convert("RGB"))


def clipped(figure: Figure) -> list[str]:
    """Texts that stick out of the figure."""
    renderer = FigureCanvasAgg(figure).get_renderer()
    figure.draw_without_rendering()
    outside = []
    for text in figure.findobj(mpl.text.Text):
        if text.get_visible() and text.get_text().strip():
            box = text.get_window_extent(renderer)
            if box.x0 < -1 or box.y0 < -1 or box.x1 > figure.bbox.x1 + 1 or box.y1 > figure.bbox.y1 + 1:
                outside.append(text.get_text())
    return outside


# --- look


def test_sources_keep_their_look():
    many = [f"gan-{number}" for number in range(30)]
    styles = source_styles(["real-a", "real-b", *many])
    assert len(set(styles.values())) == 32
    assert styles["gan-3"] == source_styles(["real-a", *many])["gan-3"]
    assert source_styles(["real"])["real"].colour == styles["real-a"].colour


# Machado, Oliveira and Fernandes, IEEE TVCG 2009, severity 1.0, on linear RGB
COLOUR_BLINDNESS = {
    "none": np.eye(3),
    "protanopia": np.array([[0.1523, 1.0526, -0.2049], [0.1145, 0.7863, 0.0992], [-0.0039, -0.0481, 1.0520]]),
    "deuteranopia": np.array([[0.3673, 0.8606, -0.2280], [0.2801, 0.6725, 0.0474], [-0.0118, 0.0429, 0.9689]]),
    "tritanopia": np.array([[1.2555, -0.0767, -0.1788], [-0.0784, 0.9308, 0.1476], [0.0047, 0.6914, 0.3039]]),
}


@pytest.mark.parametrize("kind", COLOUR_BLINDNESS)
def test_colours_stay_apart(kind: str):
    def lab(colour: str) -> NDArray[np.float64]:
        rgb = np.array(to_rgb(colour))
        linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
        seen = np.clip(COLOUR_BLINDNESS[kind] @ linear, 0, 1)
        xyz = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]) @ seen
        x, y, z = (np.cbrt(part) if part > 0.008856 else 7.787 * part + 16 / 116 for part in xyz / (0.9505, 1, 1.089))
        return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])

    styles = source_styles(["real", *(f"gan-{number}" for number in range(7))])
    seen = [lab(style.colour) for style in styles.values()]
    assert min(float(np.linalg.norm(a - b)) for a, b in itertools.combinations(seen, 2)) > 15  # 2.3 is just noticeable


def test_callers_matplotlib_settings_neither_show_nor_change():
    before = pixels(confusion_matrix(COUNTS, SOURCES))
    with mpl.rc_context({"font.size": 30, "axes.facecolor": "red", "image.cmap": "hot"}):
        mpl.rcParams["backend"] = "svg"
        after = pixels(confusion_matrix(COUNTS, SOURCES))
        assert mpl.rcParams["font.size"] == 30
        assert mpl.rcParams["backend"] == "svg"
    assert np.array_equal(before, after)


def test_png_is_the_same_for_the_same_figure():
    assert to_png(confusion_matrix(COUNTS, SOURCES)) == to_png(confusion_matrix(COUNTS, SOURCES))


# --- confusion matrix


def test_confusion_matrix_shows_counts_and_row_shares():
    figure = confusion_matrix(COUNTS, SOURCES)
    shown = texts(figure)
    assert {"8\n80%", "2\n20%", "3\n0%", "1,007\n100%"} <= set(shown)
    assert shown.count("–") == 3  # a source without images has no share
    for source in SOURCES:
        assert shown.count(source) == 2
    shades = figure.axes[0].images[0].get_array()
    assert np.allclose(shades, [[0.8, 0.2, 0], [3 / 1010, 1007 / 1010, 0], [0, 0, 0]])


def test_confusion_matrix_of_many_sources_is_legible():
    sources = [f"family-model_{number}" for number in range(20)]
    figure = confusion_matrix(np.full((20, 20), 4321), sources)
    figure.draw_without_rendering()
    assert clipped(figure) == []
    renderer = figure.canvas.get_renderer()
    cells = [text for text in figure.axes[0].texts if text.get_text() == "4,321"]
    assert len(cells) == 400
    width = figure.axes[0].bbox.width / 20
    assert all(text.get_window_extent(renderer).width < width for text in cells)
    assert min(text.get_fontsize() for text in figure.findobj(mpl.text.Text) if text.get_text()) >= 6


def test_confusion_matrix_of_another_shape_is_refused():
    with pytest.raises(ValueError, match=r"\(3, 3\) for 2 sources"):
        confusion_matrix(COUNTS, SOURCES[:2])


# --- bars


def test_bars_show_value_interval_and_chance():
    recalls = {"real": proportion(30, 100), "gan-dcgan": proportion(100, 100), "vae": proportion(0, 0)}
    figure = per_source_accuracy(recalls, chance=1 / 3)
    axes = figure.axes[0]
    assert [bar.get_width() for bar in axes.patches[:2]] == [0.3, 1.0]
    assert [label.get_text() for label in axes.get_yticklabels()] == list(recalls)
    shown = texts(figure)
    assert {"30.0\u00a0%", "100.0\u00a0%", "chance 33.3\u00a0%", "no images"} <= set(shown)
    assert "whiskers: Wilson 95%, n = 0 to 100" in axes.get_xlabel()
    whisker = axes.collections[0].get_segments()[0]
    assert whisker[:, 0] == pytest.approx([recalls["real"].low, recalls["real"].high])
    assert any(line.get_xdata()[0] == pytest.approx(1 / 3) for line in axes.lines if len(set(line.get_xdata())) == 1)
    assert clipped(figure) == []


def test_methods_show_their_seeds_and_the_interval_over_images():
    def method(values):
        mean = sum(values) / len(values)
        return Estimate(mean, mean - 0.1, mean + 0.1, 960, "wilson over images 95%", {"values": values})

    methods = {"artifact": method([0.7, 0.72, 0.74]), "raw image": method([0.5, 0.5, 0.56]), "alone": method([0.4])}
    figure = method_accuracy(methods, chance=0.2, highlight=["artifact"])
    axes = figure.axes[0]
    dots = [patch.get_offsets()[:, 0].tolist() for patch in axes.collections if isinstance(patch, PathCollection)]
    assert dots == [[0.7, 0.72, 0.74], [0.5, 0.5, 0.56], []]  # one seed is the bar itself
    assert axes.patches[0].get_facecolor() != axes.patches[1].get_facecolor()
    assert "whiskers: Wilson over images 95%, n = 960; dots: single seeds" in axes.get_xlabel()
    assert "dots" not in method_accuracy({"alone": method([0.4])}).axes[0].get_xlabel()


def test_no_bars_are_refused():
    with pytest.raises(ValueError, match="at least one"):
        method_accuracy({})


# --- training curves


def test_training_curves_have_a_panel_per_metric_and_a_line_per_stage():
    curves = {
        "train/loss": [(0, 2.0), (1, 1.0)],
        "val/loss": [(1, 1.5)],
        "val/accuracy": [(0, 0.2), (1, 0.4)],
        "x/y": [],
    }
    figure = training_curves(curves)
    assert [axes.get_title(loc="left") for axes in figure.axes] == ["loss", "accuracy"]
    drawn = {
        (axes.get_title(loc="left"), line.get_label()): np.column_stack(line.get_data()).tolist()
        for axes in figure.axes
        for line in axes.lines
    }
    assert drawn == {
        ("loss", "train"): [[0, 2.0], [1, 1.0]],
        ("loss", "val"): [[1, 1.5]],
        ("accuracy", "val"): [[0, 0.2], [1, 0.4]],
    }
    with pytest.raises(ValueError, match="no point"):
        training_curves({"train/loss": []})


# --- images


def row(source: str, artifact: float) -> ArtifactRow:
    images = torch.full((2, 3, 8, 8), 0.5)
    return ArtifactRow(source, images, images - artifact, torch.full((2, 3, 8, 8), artifact))


def test_artifact_rows_share_one_scale_with_white_at_zero():
    rows = [row("real", 0.0), row("gan-dcgan", 0.25), row("vae", -0.25)]
    figure = artifact_rows(rows)
    shown = texts(figure)
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == ["real", "gan-dcgan", "vae"]
    assert (shown.count("image"), shown.count("nearest\nreal"), shown.count("artifact")) == (2, 2, 2)
    assert any("±0.25" in text for text in shown)
    canvas = np.asarray(figure.axes[0].images[0].get_array())
    height = canvas.shape[0] // 3
    zero, positive, negative = (canvas[height * place + height // 2, int(132 * 2.5)] for place in range(3))
    assert zero == pytest.approx([0.97] * 3, abs=0.01)
    assert positive[0] > 2 * positive[2]  # red
    assert negative[2] > 2 * negative[0]  # blue
    image, real = (canvas[height + height // 2, int(132 * place)] for place in (0.5, 1.5))
    assert image.tolist() == pytest.approx([0.5] * 3)
    assert real.tolist() == pytest.approx([0.25] * 3)
    assert clipped(figure) == []


def test_rows_of_artifacts_that_are_no_images_show_image_and_nearest_real():
    rows = [
        ArtifactRow(name, full.images, full.nearest, None) for name in ("real", "dcgan") for full in [row(name, 0.1)]
    ]
    figure = artifact_rows(rows)
    assert [label.get_text() for label in figure.axes[0].get_xticklabels()] == ["image", "nearest\nreal"] * 2
    assert len(figure.axes) == 1  # no scale of colours
    with pytest.raises(ValueError, match="dcgan"):
        artifact_rows([row("real", 0.1), rows[1]])


def test_artifact_rows_that_do_not_fit_are_refused():
    good, other = row("real", 0.1), row("dcgan", 0.1)
    with pytest.raises(ValueError, match="at least one"):
        artifact_rows([])
    with pytest.raises(ValueError, match=r"dcgan: images \(2, 3, 8, 8\), nearest \(2, 3, 4, 4\)"):
        artifact_rows([good, ArtifactRow("dcgan", other.images, np.zeros((2, 3, 4, 4)), other.artifacts)])


# --- t-SNE


def clusters(n: int = 90, d: int = 64) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    rng = np.random.default_rng(0)
    labels = np.arange(n) % 3
    return rng.normal(size=(n, d)) + 6 * np.eye(3, d)[labels], labels


def test_tsne_is_deterministic_and_keeps_clusters_together():
    features, labels = clusters()
    points = tsne(features, seed=3)
    assert points.shape == (90, 2)
    assert np.array_equal(points, tsne(torch.from_numpy(features), seed=3))
    distances = np.linalg.norm(points[:, None] - points[None], axis=-1)
    np.fill_diagonal(distances, np.inf)
    assert (labels[distances.argmin(axis=1)] == labels).mean() > 0.95


def test_tsne_figure_has_every_point_once_and_says_what_it_left_out():
    features, labels = clusters()
    figure = tsne_figure(features, torch.from_numpy(labels), SOURCES, max_points=60)
    scatters = figure.axes[0].collections
    assert sum(len(scatter.get_offsets()) for scatter in scatters) == 60
    assert figure.axes[0].get_xlabel() == "t-SNE of 60 of 90 images; axes have no unit"
    styles = source_styles(SOURCES)
    for scatter, source in zip(scatters, SOURCES, strict=True):
        assert scatter.get_label().startswith(source)
        assert tuple(scatter.get_facecolor()[0][:3]) == pytest.approx(to_rgb(styles[source].colour))
    again = tsne_figure(features, labels, SOURCES, max_points=60)
    assert to_png(again) == to_png(figure)
    assert clipped(figure) == []


@pytest.mark.parametrize(
    ("features", "message"),
    [
        (np.zeros((4, 3)), "N >= 5"),
        (np.zeros(9), r"\(N, d\)"),
        (np.full((9, 2), math.nan), "NaN or infinity"),
    ],
)
def test_tsne_refuses_what_it_cannot_embed(features: NDArray[np.float64], message: str):
    with pytest.raises(ValueError, match=message):
        tsne(features)


def test_tsne_figure_refuses_labels_that_do_not_fit():
    with pytest.raises(ValueError, match=r"labels \(8,\)"):
        tsne_figure(np.zeros((9, 2)), np.zeros(8), SOURCES)


def test_estimates_without_interval_can_be_drawn():
    figure = method_accuracy({"one seed": Estimate(0.4, None, None, 100, "none")})
    assert figure.axes[0].get_xlabel() == "accuracy; n = 100"

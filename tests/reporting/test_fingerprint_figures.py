from __future__ import annotations

import itertools
import math

import matplotlib as mpl
import numpy as np
import pytest
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.transforms import Bbox

from lightning_modules.attacks.registry import curves as attack_curves
from lightning_modules.attacks.registry import grid_names
from lightning_modules.fingerprints.marked_images import MarkedPair
from lightning_modules.metrics.intervals import Estimate, proportion
from lightning_modules.reporting.figures.marked_pairs import difference_factor, marked_pair_rows, shown_attacks
from lightning_modules.reporting.figures.robustness import needed_line, robustness_curves
from lightning_modules.reporting.figures.trade_off import TradeOffPoint, trade_off_figure
from lightning_modules.reporting.strengths import attack_strength


def fid(value: float) -> Estimate:
    return Estimate(value, 0.95 * value, 1.05 * value, 1000, "bootstrap 95%")


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


def legend(figure: Figure) -> list[str]:
    return [text.get_text() for text in figure.legends[0].get_texts()]


# --- accuracy against FID


def sweep() -> list[TradeOffPoint]:
    return [
        TradeOffPoint(
            f"{group}, sigma {sigma}",
            fid(2 + cost * sigma**2),
            proportion(round(500 - 250 * math.exp(-sigma / 2)), 500),
            group,
            sigma,
            mark=(group, sigma) == ("shift -32", 4.0),
        )
        for group, cost in (("shift 0", 3.0), ("shift 48", 2.0), ("shift -32", 1.0))
        for sigma in (6.0, 1.0, 4.0, 2.0)
    ]


def boxes_of(figure: Figure) -> list[Bbox]:
    """Where the names of the points stand, without their leading lines."""
    renderer = FigureCanvasAgg(figure).get_renderer()
    figure.draw_without_rendering()
    return [mpl.text.Text.get_window_extent(name, renderer) for name in figure.axes[0].texts]


def test_trade_off_joins_a_group_in_its_order():
    axes = trade_off_figure(sweep(), order_name="sigma").axes[0]
    lines = {line.get_label(): line for line in axes.lines}
    for group, cost in (("shift 0", 3.0), ("shift 48", 2.0), ("shift -32", 1.0)):
        assert lines[group].get_xdata() == pytest.approx([2 + cost * sigma**2 for sigma in (1, 2, 4, 6)])
    looks = {
        (lines[g].get_color(), lines[g].get_marker(), str(lines[g].get_linestyle())) for g in lines if "shift" in g
    }
    assert len({marker for _, marker, _ in looks}) >= 3
    ring = lines["operating point: shift -32, sigma 4.0"]
    assert (ring.get_xdata()[0], ring.get_ydata()[0]) == (18.0, pytest.approx(466 / 500))


def test_trade_off_names_each_point_and_no_names_overlap():
    figure = trade_off_figure(sweep(), order_name="sigma")
    names = figure.axes[0].texts
    assert sorted(name.get_text() for name in names) == sorted(["1", "2", "4", "6"] * 3)
    boxes = boxes_of(figure)
    assert not any(one.overlaps(other) for one, other in itertools.combinations(boxes, 2))
    area = figure.axes[0].get_window_extent()
    assert all(area.x0 <= box.x0 and box.x1 <= area.x1 and area.y0 <= box.y0 and box.y1 <= area.y1 for box in boxes)
    assert "numbers at the points: sigma" in figure.legends[0].get_title().get_text()


def test_trade_off_keeps_names_apart_where_points_almost_coincide():
    points = [
        TradeOffPoint(f"m{n}", Estimate(4 + n / 500, None, None, 9, "none"), proportion(960 + n, 1000), f"g{n}", n)
        for n in range(6)
    ]
    figure = trade_off_figure([*points, TradeOffPoint("far", fid(5.0), proportion(5, 10), "far", 9)])
    boxes = boxes_of(figure)
    assert len(boxes) == 7
    assert not any(one.overlaps(other) for one, other in itertools.combinations(boxes, 2))


def test_trade_off_takes_a_logarithmic_scale_only_where_fids_differ_much():
    assert trade_off_figure(sweep()).axes[0].get_xscale() == "log"
    assert trade_off_figure([point for point in sweep() if point.order < 2]).axes[0].get_xscale() == "linear"
    zero = TradeOffPoint("none", Estimate(0.0, None, None, 10, "none"), proportion(5, 10), "none", 0)
    assert trade_off_figure([*sweep(), zero]).axes[0].get_xscale() == "linear"


def test_trade_off_says_how_many_settings_it_left_out():
    lost = TradeOffPoint("lost", Estimate(math.nan, None, None, 0, "none"), proportion(5, 10), "shift 0", 9)
    figure = trade_off_figure([*sweep(), lost])
    assert "1 of 13 settings left out" in figure.legends[0].get_title().get_text()
    with pytest.raises(ValueError, match="found 1 points, none with both"):
        trade_off_figure([lost])


# --- robustness curves


def test_strengths_are_read_from_every_name_of_a_grid_and_from_no_other():
    for kind, curve in attack_curves().items():
        assert [attack_strength(name) for name in grid_names(kind)] == [
            (kind, float(value)) for value in curve.strengths
        ]
    for name in ("clean", "paper-noise", "noise", "noise_", "noise_x", "noise_nan", "squash_0.5"):
        assert attack_strength(name) is None


def curves() -> dict[str, list[tuple[float, Estimate]]]:
    return {
        "noise": [(0.2, proportion(600, 1000)), (0.05, proportion(900, 1000))],
        "jpeg": [(50.0, proportion(700, 1000)), (90.0, proportion(950, 1000))],
        "blur": [],
    }


def test_curves_start_without_attack_and_get_stronger_to_the_right():
    figure = robustness_curves(curves(), clean=proportion(990, 1000))
    noise, jpeg = figure.axes
    assert [axes.get_title(loc="left") for axes in figure.axes] == ["Noise", "JPEG"]
    for axes, strengths, values in (
        (noise, [0.05, 0.2], [0.99, 0.9, 0.6]),
        (jpeg, [90, 50], [0.99, 0.95, 0.7]),
    ):
        line = next(line for line in axes.lines if line.get_label().startswith("bit accuracy"))
        assert line.get_ydata() == pytest.approx(values)
        assert list(line.get_xdata()[1:]) == strengths
        across = axes.transData.transform(np.column_stack(line.get_data()))[:, 0]
        assert (np.diff(across) > 0).all()
        assert axes.get_xticklabels()[0].get_text() == "none"
    assert clipped(figure) == []


def test_the_interval_is_drawn_as_whiskers_and_band():
    figure = robustness_curves({"noise": curves()["noise"]})
    band, whiskers = figure.axes[0].collections
    estimate = proportion(900, 1000)
    assert whiskers.get_segments()[0][:, 1] == pytest.approx([estimate.low, estimate.high])
    heights = band.get_paths()[0].vertices[:, 1]
    assert heights.max() == pytest.approx(estimate.high)
    assert "bit accuracy (Wilson 95%)" in legend(figure)


def test_the_dashed_line_is_what_a_match_needs():
    figure = robustness_curves(curves(), needed=needed_line(32, 1e-6))
    for axes in figure.axes:
        heights = [line.get_ydata()[0] for line in axes.lines if "matching bits alone need" in line.get_label()]
        assert heights == [30 / 32]  # P(Bin(32, 1/2) >= 30) = 1.2e-7, and of 29 already 1.3e-6
    assert any("rate of 1e-6: 30 of 32" in label for label in legend(figure))
    assert needed_line(16, 1e-6) is None


def test_curves_that_cannot_be_drawn_are_refused():
    with pytest.raises(ValueError, match="no point"):
        robustness_curves({"noise": [(0.1, proportion(0, 0))]})
    with pytest.raises(ValueError, match=r"\['squash'\]"):
        robustness_curves({"squash": []})


# --- marked pairs


def example(change: float = 0.04, size: int = 8, attacks: tuple[str, ...] = ("paper-blur", "jpeg_50")) -> MarkedPair:
    image = torch.full((3, size, size), 0.5)
    return MarkedPair(7, image, image + change, {name: image * 0.5 for name in attacks})


def test_pairs_stand_in_a_row_with_their_difference_and_attacks():
    figure = marked_pair_rows([example(), example(-0.04)], ["paper-blur", "jpeg_50"])
    axes = figure.axes[0]
    titles = [label.get_text() for label in axes.get_xticklabels()]
    assert titles == ["unmarked", "marked", "difference\n×10", "paper-\nblur", "jpeg_50"]
    canvas = np.asarray(axes.images[0].get_array())
    height, width = canvas.shape[0] / 2, canvas.shape[1] / 5
    for row, sign in enumerate((1, -1)):
        middles = [canvas[int(height * (row + 0.5)), int(width * (place + 0.5)), 0] for place in range(5)]
        assert middles == pytest.approx([0.5, 0.5 + 0.04 * sign, 0.5 + 0.4 * sign, 0.25, 0.25], abs=1e-6)
    assert clipped(figure) == []


@pytest.mark.parametrize(("change", "factor"), [(0.5, 1), (0.3, 1), (0.2, 2), (0.04, 10), (0.0, 100)])
def test_the_difference_is_amplified_as_far_as_it_fits(change: float, factor: int):
    assert difference_factor([example(change)]) == factor


def test_attacks_shown_are_those_that_every_example_has():
    examples = [example(), example(attacks=("jpeg_50", "noise_0.1"))]
    assert shown_attacks(examples, ["paper-blur", "noise_0.1", "jpeg_50"], 3) == ["jpeg_50"]
    assert shown_attacks([example()], ["jpeg_50", "paper-blur"], 1) == ["jpeg_50"]


def test_pairs_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="at least one"):
        marked_pair_rows([])
    with pytest.raises(ValueError, match=r"example 7 has no image after \['crop'\]"):
        marked_pair_rows([example()], ["crop"])
    with pytest.raises(ValueError, match=r"\(3, 4, 4\)\]; expected all to be \(3, 8, 8\)"):
        marked_pair_rows([example(), example(size=4)], factor=1)

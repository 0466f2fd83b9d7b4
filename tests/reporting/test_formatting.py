from __future__ import annotations

import math

import pytest

from lightning_modules.metrics.intervals import Estimate
from lightning_modules.reporting.formatting import (
    format_estimate,
    format_number,
    format_percent,
    format_spread,
)


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (12345, "12,345"),
        (12345.6, "12,346"),
        (41.234, "41.2"),
        (0.33333, "0.333"),
        (0.00012345, "0.000123"),
        (1.2345e-9, "1.23e-09"),
        (-2.0, "-2.00"),
        (0.0, "0"),
        (None, "–"),
        (math.nan, "–"),
        (math.inf, "∞"),
        (-math.inf, "-∞"),
    ],
)
def test_numbers(value: float | None, shown: str):
    assert format_number(value) == shown


def test_percent_and_intervals():
    estimate = Estimate(0.7128, 0.698, 0.727, 3500, "wilson 95%")
    assert format_percent(estimate.value) == "71.3\u00a0%"
    assert format_estimate(estimate, percent=True) == "71.3\u00a0% (69.8 to 72.7\u00a0%)"
    assert format_estimate(estimate) == "0.713 (0.698 to 0.727)"
    assert format_estimate(Estimate(0.25, None, None, 4, "none")) == "0.250"
    assert format_percent(math.nan) == "–"


def test_spread():
    assert format_spread(0.71, 0.0042, percent=True) == "71.0 ± 0.4\u00a0%"
    assert format_spread(41.23, 1.234) == "41.2 ± 1.2"
    assert format_spread(0.71, None, percent=True) == "71.0\u00a0%"
    assert format_spread(None, None) == "–"

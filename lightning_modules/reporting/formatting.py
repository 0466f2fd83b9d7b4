"""Numbers as a reader wants them: one rounding for figures, tables and headlines."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from lightning_modules.metrics.intervals import Estimate

MISSING = "–"
_SPACE = "\N{NO-BREAK SPACE}"


def format_number(value: float | None, digits: int = 3) -> str:
    """`value` with `digits` significant digits and thousands in groups; a dash where there is none.

    Integers are never rounded: `12345` is `"12,345"`, `0.00012345` is `"0.000123"`, `12345.6` is `"12,346"`.
    """
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return MISSING
    if isinstance(value, int):
        return f"{value:,}"
    if math.isinf(value):
        return "∞" if value > 0 else "-∞"
    if value == 0:
        return "0"
    magnitude = math.floor(math.log10(abs(value)))
    if magnitude < -4:
        return f"{value:.{digits - 1}e}"
    return f"{value:,.{max(0, digits - 1 - magnitude)}f}"


def format_percent(value: float | None, decimals: int = 1) -> str:
    """A share in [0, 1] as `"71.3 %"`, with a space that does not break; a dash where there is none."""
    if value is None or math.isnan(value):
        return MISSING
    return f"{100 * value:.{decimals}f}{_SPACE}%"


def format_interval(estimate: Estimate, *, percent: bool = False) -> str:
    """The interval alone: `"69.8 to 72.7 %"`, or a dash."""
    if estimate.low is None or estimate.high is None:
        return MISSING
    if percent:
        return f"{100 * estimate.low:.1f} to {format_percent(estimate.high)}"
    return f"{format_number(estimate.low)} to {format_number(estimate.high)}"


def interval_name(estimate: Estimate) -> str:
    """What the interval is, as a reader expects it written: `"Wilson 95%"`."""
    return estimate.interval[:1].upper() + estimate.interval[1:]


def format_estimate(estimate: Estimate, *, percent: bool = False) -> str:
    """Value and interval in brackets: `"71.3 % (69.8 to 72.7 %)"`; the value alone where it has no interval."""
    value = format_percent(estimate.value) if percent else format_number(estimate.value)
    interval = format_interval(estimate, percent=percent)
    return value if interval == MISSING else f"{value} ({interval})"


def format_spread(mean: float | None, std: float | None, *, percent: bool = False) -> str:
    """Mean and standard deviation over seeds: `"71.3 ± 0.4 %"`; the mean alone where a single seed has no spread."""
    if std is None or mean is None:
        return format_percent(mean) if percent else format_number(mean)
    if percent:
        return f"{100 * mean:.1f} ± {format_percent(std)}"
    return f"{format_number(mean)} ± {format_number(std, 2)}"


def markdown_rows(columns: Sequence[object], rows: Iterable[Sequence[object]]) -> list[str]:
    """Lines of a Markdown table, its first column to the left and the others to the right."""
    head, *body = (
        "| " + " | ".join(str(cell).replace("|", "\\|") for cell in cells) + " |" for cells in (columns, *rows)
    )
    return [head, "|---|" + "---:|" * (len(columns) - 1), *body]

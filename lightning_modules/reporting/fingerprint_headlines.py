"""The numbers at the top of a fingerprint's report; whatever was not measured is left out."""

from __future__ import annotations

from collections.abc import Sequence

from lightning_modules.reporting.fingerprint_tables import Results, worst_attack
from lightning_modules.reporting.formatting import format_interval, format_number
from lightning_modules.reporting.page import Headline


def fingerprint_headlines(results: Results, attacks: Sequence[str], bits: int) -> list[Headline]:
    """Accuracy without attack and under the worst, true-positive rate, FID.

    Args:
        results: metrics by name, `test/<attack>/...` and `test/quality/...`.
        attacks: names of the attacks.
        bits: length m of a key.

    Returns:
        Those headlines whose numbers are there.
    """
    headlines = []
    if (clean := results.get("test/clean/bit_accuracy")) is not None:
        headlines.append(Headline.of("Bit accuracy", clean, percent=True, note="no attack; chance 50 %"))
    if (whole := results.get("test/clean/attribution_accuracy")) is not None:
        note = f"all {bits} bits right; no attack"
        headlines.append(Headline.of("Attribution accuracy", whole, percent=True, note=note))
    if (worst := worst_attack(results, attacks)) is not None:
        headlines.append(Headline.of("Bit accuracy, worst attack", worst[1], percent=True, note=worst[0]))
    if (found := results.get("test/clean/tpr_at_1e-6")) is not None:
        enough = found.details.get("bits_needed", bits) is not None
        note = "no attack" if enough else f"no match of {bits} bits is good enough"
        headlines.append(Headline.of("True-positive rate at FPR 1e-6", found, percent=True, note=note))
    return headlines + _fid(results)


def _fid(results: Results) -> list[Headline]:
    before, after = results.get("test/quality/fid_before"), results.get("test/quality/fid_after")
    if before is None or after is None:
        own = results.get("test/quality/fid_own")
        return [] if own is None else [Headline.of("FID", own, note="against the generator's own images")]
    note = f"without and with fingerprint, against real images; n\N{NO-BREAK SPACE}=\N{NO-BREAK SPACE}{after.n:,}"
    if before.low is not None and after.low is not None:
        note = f"{format_interval(before)} → {format_interval(after)}; {note}"
    return [Headline("FID before → after", f"{format_number(before.value)} → {format_number(after.value)}", note)]

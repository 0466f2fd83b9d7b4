"""What `predict` prints about the rows that it has written for a fingerprint."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from lightning_modules.metrics.evidence import most_users

SHOWN_USERS = 10


def summarise(rows: Sequence[dict[str, Any]], together: Sequence[dict[str, Any]], users: int, skipped: int = 0) -> str:
    """What the rows say, for people, in a few lines: how many images go to whom, and how many to nobody.

    `rows` has one or more images, `together` the combined row or none; so many images more were `skipped`.
    """
    bits, rate = rows[0]["bits"], rows[0]["false_positive_rate"]
    enough = f"a user is named by a p-value of {rate / users:.2g} or less"
    if users > (most := most_users(bits, rate)):
        whom = f"can tell {count_of(most, 'user')} apart at most" if most else "can name nobody"
        enough = f"keys of {bits} bits {whom} at this rate"
    named = Counter(row["verdict"] for row in rows if row["verdict"] is not None)
    shows_nothing = sum(row.get("reason") is not None for row in rows)
    unmatched = len(rows) - named.total() - shows_nothing
    lines = [
        f"{count_of(len(rows), 'file')}: {named.total()} attributed, {unmatched} without a match, {shows_nothing} "
        f"abstained ({count_of(users, 'user')}, false-positive rate {rate:g} an image: {enough})"
    ]
    if shows_nothing:
        lines.append("abstained where images are without content or far from the generator's: each row says why")
    if skipped:
        lines.append(f"{count_of(skipped, 'file')} more could not be used, each row says why")
    lines += [f"  {user}: {number}" for user, number in named.most_common(SHOWN_USERS)]
    if len(named) > SHOWN_USERS:
        lines.append(f"  and {len(named) - SHOWN_USERS} more")
    for row in together:
        if "p_value" not in row:
            lines.append("all together: nobody, since no image is left")
            continue
        who = row["verdict"] or f"nobody (closest: {row['best_user']})"
        lines.append(
            f"all together: {who}, p-value {row['p_value']:.2g}, over all users {row['family_p_value']:.2g}, "
            f"{row['bits_matching']} of {bits} bits match"
        )
    return "\n".join(lines)


def count_of(number: int, what: str) -> str:
    """A number of things in words: `1 file`, `2,000 files`."""
    return f"{number:,} {what}" if number == 1 else f"{number:,} {what}s"

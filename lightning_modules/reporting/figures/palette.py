"""Colours and markers that figures and pages share. Imports nothing."""

from __future__ import annotations

INK, MUTED, FAINT = "#222222", "#666666", "#d9d9d9"
REAL = "#222222"
ACCENT = "#0072b2"
# Okabe and Ito's palette (jfly.uni-koeln.de/color, 2008), without its yellow, which fades on white, and with a brown
# in its place.
PALETTE = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00", "#7f4f24")
ON_DARK = ("#4fb0ea", "#f2b632", "#2fc79b", "#e39ac5", "#9bd4f5", "#f58b4c", "#c99a66")  # the same hues, lighter
MARKERS = ("o", "^", "s", "D", "v", "P", "X")

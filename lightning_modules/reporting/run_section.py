"""What every report of a run ends with, and its figures as files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from matplotlib.figure import Figure

from lightning_modules.common.files import write_bytes
from lightning_modules.reporting.figures.style import to_png
from lightning_modules.reporting.page import Block, Details, FigureBlock, Section, Text


def write_figures(folder: Path, figures: Mapping[str, Figure]) -> dict[str, Path]:
    """Write `figures/NAME.png` into a run folder; returns the paths by name."""
    paths = {name: folder / "figures" / f"{name}.png" for name in figures}
    for name, figure in figures.items():
        write_bytes(paths[name], to_png(figure))
    return paths


def run_section(folder: Path, paths: Mapping[str, Path], caption: str, facts: Sequence[Block]) -> Section:
    """Training curves, if there are any, with their caption, facts, and the files that say how the run was made."""
    curves = [FigureBlock(paths["training"], caption, "Training curves")] if "training" in paths else []
    files = [folder / name for name in ("config.yaml", "provenance.json")]
    blocks = [*curves, *facts, *(Details(file.name, file.read_text()) for file in files if file.is_file())]
    return Section("Run", blocks or [Text("This run left no configuration.")])

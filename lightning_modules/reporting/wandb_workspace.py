"""A workspace of Weights & Biases that shows the robustness curves of a comparison, a section for each metric.

Any workspace lays the curves of several runs over each other; a saved one puts them in order. It needs the package
`wandb-workspaces` (the extra `workspace`), and a login to be saved.
"""

from __future__ import annotations

import importlib.util
import os
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from lightning_modules.common.wandb_login import has_login
from lightning_modules.reporting.curve_families import Family
from lightning_modules.reporting.wandb_record import curve_name, strength_name

if TYPE_CHECKING:
    from wandb_workspaces.workspaces import Workspace

TITLE = "Robustness"
MOST_RUNS = 100
_PLACE = re.compile(r"([\w.-]+)/([\w.-]+)")


def check_workspace(place: str, environment: Mapping[str, str] = os.environ) -> tuple[str, str]:
    """Entity and project of `ENTITY/PROJECT`, where a workspace can be saved there.

    Raises:
        ValueError: another form, no `wandb-workspaces`, or no login.
    """
    found = _PLACE.fullmatch(place)
    if found is None:
        raise ValueError(f"found --wandb_workspace {place!r}, expected ENTITY/PROJECT, such as my-team/robustness")
    if importlib.util.find_spec("wandb_workspaces") is None:
        raise ValueError(
            "a workspace needs the package wandb-workspaces, which is not installed; "
            "pip install 'manifold-fingerprints[workspace]'"
        )
    if not has_login(environment):
        raise ValueError(
            f"found no login for W&B, expected one to save a workspace in {place}; log in with `wandb login` or set "
            "WANDB_API_KEY"
        )
    return found[1], found[2]


def build_workspace(entity: str, project: str, families: Sequence[Family]) -> Workspace:
    """The workspace of these curves, not yet saved.

    Raises:
        ValueError: no curve.
    """
    import wandb_workspaces.reports.v2 as panels
    import wandb_workspaces.workspaces as workspaces

    if not families:
        raise ValueError(
            "found no robustness curve to show in a workspace, expected runs that were tested under the strengths of "
            "an attack (grid-jpeg)"
        )
    sections = [
        workspaces.Section(
            name=f"{family.title} under attack",
            panels=[panels.LinePlot(**_plot(family, place)) for place in range(len(family.panels))],
            is_open=family.main,
        )
        for family in families
    ]
    examples = panels.MediaBrowser(title="Before and after attacks", media_keys=["test/examples"])
    numbers = panels.WeavePanelSummaryTable(table_name="test/results")
    sections += [
        workspaces.Section(name="Images", panels=[examples]),
        workspaces.Section(name="Every number", panels=[numbers]),
    ]
    settings = workspaces.WorkspaceSettings(max_runs=MOST_RUNS, point_visualization_method="downsampling")
    return workspaces.Workspace(entity=entity, project=project, name=TITLE, sections=sections, settings=settings)


def save_workspace(workspace: Workspace) -> str:
    """Save a workspace; returns its address.

    Raises:
        ValueError: the server did not take it; the message says why.
    """
    try:
        return str(workspace.save().url)
    except Exception as error:  # whatever the client, the network or the server has to say
        raise ValueError(
            f"W&B did not save the workspace in {workspace.entity}/{workspace.project}: {error}; check the login, the "
            "names and the network"
        ) from error


def _plot(family: Family, place: int) -> dict[str, Any]:
    panel = family.panels[place]
    return {
        "title": panel.curve.title,
        "x": strength_name(panel.kind),
        "y": [curve_name(panel.kind, family.metric, family.part)],
        "title_x": panel.curve.axis,
        "title_y": family.title,
        "range_y": (0.0, 1.0) if family.share else (None, None),
        "max_runs_to_show": MOST_RUNS,
        "smoothing_type": "none",
    }

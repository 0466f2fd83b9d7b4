"""The workspace that shows a comparison in Weights & Biases: its definition, offline, and what stands in its way."""

from __future__ import annotations

import importlib.util
import json

import pytest
from evaluated_runs import attributor_run, fingerprint_run

from lightning_modules.cli.compare import compare
from lightning_modules.reporting import wandb_workspace
from lightning_modules.reporting.compare import compare_runs
from lightning_modules.reporting.wandb_workspace import build_workspace, check_workspace, save_workspace

installed = pytest.mark.skipif(importlib.util.find_spec("wandb_workspaces") is None, reason="needs wandb-workspaces")
LOGIN = {"WANDB_API_KEY": "k" * 40}


@installed
def test_the_definition_has_a_section_for_each_metric(tmp_path):
    families = compare_runs([fingerprint_run(tmp_path / "f"), attributor_run(tmp_path / "a")]).families
    workspace = build_workspace("team", "robustness", families)
    spec = json.loads(workspace._to_model().spec.model_dump_json(by_alias=True, exclude_none=True))
    sections = {section["name"]: section for section in spec["section"]["panelBankConfig"]["sections"]}
    for metric in ("Attribution accuracy", "Bit accuracy", "FID", "FDR", "Accuracy"):
        panels = [panel["config"] for panel in sections[f"{metric} under attack"]["panels"]]
        assert {panel["xAxis"] for panel in panels} >= {"strength/noise", "strength/jpeg"}
    jpeg = next(
        panel["config"]
        for panel in sections["Bit accuracy under attack"]["panels"]
        if panel["config"]["xAxis"] == "strength/jpeg"
    )
    assert jpeg["metrics"] == ["robustness/jpeg/bit_accuracy"]
    assert (jpeg["chartTitle"], jpeg["xAxisTitle"], jpeg["yAxisMax"]) == ("JPEG", "quality", 1.0)
    assert not sections["Accuracy, control raw under attack"]["isOpen"]
    assert {"Images", "Every number"} <= set(sections)
    assert (workspace.entity, workspace.project, workspace.name) == ("team", "robustness", "Robustness")


@installed
def test_runs_without_curves_have_no_workspace():
    with pytest.raises(ValueError, match="found no robustness curve"):
        build_workspace("team", "project", [])


@installed
def test_a_server_that_does_not_take_it_is_one_line(tmp_path, monkeypatch):
    workspace = build_workspace("team", "p", compare_runs([fingerprint_run(tmp_path / "f")]).families)

    def refuse(self):
        raise ConnectionError("no route to host")

    monkeypatch.setattr(type(workspace), "save", refuse)
    with pytest.raises(ValueError, match="did not save the workspace in team/p: no route to host; check the login"):
        save_workspace(workspace)


def test_what_stands_in_the_way_is_told_before_anything_is_read(tmp_path, monkeypatch):
    with pytest.raises(ValueError, match="found --wandb_workspace 'team', expected ENTITY/PROJECT"):
        check_workspace("team", LOGIN)
    monkeypatch.setattr(wandb_workspace.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"not installed; pip install 'manifold-fingerprints\[workspace\]'"):
        check_workspace("team/p", LOGIN)
    monkeypatch.setattr(wandb_workspace.importlib.util, "find_spec", lambda name: object())
    with pytest.raises(ValueError, match="found no login for W&B"):
        check_workspace("team/p", {"NETRC": str(tmp_path / "none")})
    assert check_workspace("team/p", LOGIN) == ("team", "p")


def test_the_command_ends_in_one_line_without_a_login(tmp_path, monkeypatch):
    monkeypatch.setattr(wandb_workspace.importlib.util, "find_spec", lambda name: object())
    monkeypatch.setenv("NETRC", str(tmp_path / "none"))
    for name in ("WANDB_API_KEY", "WANDB_IDENTITY_TOKEN_FILE"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(SystemExit, match=r"found no login for W&B.*wandb login"):
        compare([str(tmp_path / "no_such_run"), "--wandb_workspace", "team/p"])


def test_the_command_saves_what_it_compared(tmp_path, monkeypatch, capsys):
    saved = []
    monkeypatch.setattr("lightning_modules.cli.compare.check_workspace", lambda place: tuple(place.split("/")))
    monkeypatch.setattr("lightning_modules.cli.compare.build_workspace", lambda *given: saved.append(given) or "built")
    monkeypatch.setattr("lightning_modules.cli.compare.save_workspace", lambda built: f"https://wandb.ai/{built}")
    compare([str(fingerprint_run(tmp_path / "f")), "--wandb_workspace", "team/p"])
    assert saved[0][:2] == ("team", "p")
    assert saved[0][2][0].metric == "attribution_accuracy"
    assert capsys.readouterr().out.splitlines()[-1] == "https://wandb.ai/built"

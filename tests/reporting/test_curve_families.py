"""Robustness curves of several experiments: which points, in which order, and how they are drawn."""

from __future__ import annotations

import xml.etree.ElementTree as ET

import pytest
from evaluated_runs import attributor_run, fingerprint_run, make_earlier

from lightning_modules.attacks.base import Attack
from lightning_modules.attacks.curves import CURVES, Curve
from lightning_modules.attacks.registry import ATTACKS
from lightning_modules.attacks.registry import curves as attack_curves
from lightning_modules.reporting.compare import compare_runs
from lightning_modules.reporting.comparison_tables import curve_table
from lightning_modules.reporting.figures.curve_svg import HEIGHT, WIDTH, curve_markup
from lightning_modules.reporting.strengths import curve_of


@pytest.fixture(scope="module")
def fingerprints(tmp_path_factory):
    folder = tmp_path_factory.mktemp("fingerprints")
    return [fingerprint_run(folder / name, decoder=name, skill=skill) for name, skill in (("a", 0.95), ("b", 0.99))]


def test_the_curves_that_ship_are_those_of_the_attacks():
    for kind, curve in attack_curves().items():
        shipped = CURVES[kind]
        assert (shipped.title, shipped.strengths, shipped.weaker_is_larger) == (
            curve.title,
            curve.strengths,
            curve.weaker_is_larger,
        )
    assert list(CURVES) == list(attack_curves())
    assert (CURVES["noise"].untouched, CURVES["jpeg"].untouched) == (0.0, 100.0)


def test_an_attack_of_ones_own_has_its_curve(monkeypatch):
    class Darker(Attack):
        kind = "darker"
        curve = Curve("Darkness", "factor", "factor", "factor", ("0.5",))

    monkeypatch.setitem(ATTACKS.members, "darker", "somewhere:Darker")
    monkeypatch.setattr(type(ATTACKS), "load", lambda table, name: Darker)
    assert curve_of("darker").title == "Darkness"
    assert curve_of("brighter") is None


def test_every_metric_has_its_family(fingerprints, tmp_path):
    families = compare_runs(fingerprints).families
    names = [family.metric for family in families]
    assert names == ["attribution_accuracy", "bit_accuracy", "fid", "tpr_at_1e-6"]
    assert [panel.kind for panel in families[0].panels] == ["noise", "blur", "jpeg", "combination"]
    passive = compare_runs([attributor_run(tmp_path / "x")]).families
    assert [(family.part, family.metric) for family in passive] == [
        ("test", "accuracy"),
        ("test", "accuracy_macro"),
        ("test", "fdr"),
        ("control/raw", "accuracy"),
    ]
    assert passive[-1].title == "Accuracy, control raw"


def test_points_are_those_of_the_long_table(fingerprints):
    (family,) = [one for one in compare_runs(fingerprints).families if one.metric == "bit_accuracy"]
    noise, jpeg = (next(panel for panel in family.panels if panel.kind == kind) for kind in ("noise", "jpeg"))
    assert noise.strengths == [0.01, 0.02, 0.05, 0.1, 0.15, 0.2]
    assert jpeg.strengths == [95, 90, 80, 70, 60, 50, 30, 10]  # stronger to the right
    first, second = noise.lines
    assert (first.label, second.label) == ("fingerprint/a", "fingerprint/b")
    assert dict(first.points)[0.1].value < first.clean.value < second.clean.value


def test_another_attack_of_the_same_strength_is_no_point(tmp_path):
    run = fingerprint_run(tmp_path / "a", kinds=["jpeg"])
    table = (run / "results.csv").read_text()
    line = next(line for line in table.splitlines() if line.startswith("marked,jpeg_50,") and ",bit_accuracy," in line)
    other = line.replace("jpeg_50", "jpeg_50_444").replace(line.split(",")[6], "0.123")
    for text in (f"{table}{other}\n", table.replace(line, f"{other}\n{line}")):
        (run / "results.csv").write_text(text)
        (family,) = [one for one in compare_runs([run]).families if one.metric == "bit_accuracy"]
        assert dict(family.panels[0].lines[0].points)[50].value != 0.123


def test_the_one_strength_of_a_preset_is_no_curve(tmp_path):
    run = fingerprint_run(tmp_path / "a", kinds=["jpeg"])
    table = (run / "results.csv").read_text().replace(",paper-noise,noise,,", ",paper-noise,noise,0.1,")
    (run / "results.csv").write_text(table)
    kinds = {panel.kind for family in compare_runs([run]).families for panel in family.panels}
    assert kinds == {"jpeg"}


def test_earlier_versions_have_their_curves_by_name(tmp_path):
    today = fingerprint_run(tmp_path / "today")
    earlier = make_earlier(fingerprint_run(tmp_path / "earlier"))
    values = []
    for run in (today, earlier):
        families = {family.metric: family for family in compare_runs([run]).families}
        line = families["bit_accuracy"].panels[0].lines[0]
        values.append([line.clean.value, *(estimate.value for _, estimate in line.points)])
    assert values[0] == pytest.approx(values[1])


def test_the_table_beneath_holds_every_point(fingerprints):
    (family,) = [one for one in compare_runs(fingerprints).families if one.metric == "attribution_accuracy"]
    table = curve_table(family)
    assert table.columns == ["attack", "strength", "fingerprint/a", "fingerprint/b"]
    assert len(table.rows) == 1 + sum(len(panel.strengths) for panel in family.panels)
    assert table.rows[0][0] == "none"
    assert table.shown[1][:2] == [("Noise", ""), ("0.01", "")]


def svgs(markup: str) -> list[ET.Element]:
    root = ET.fromstring(f"<div>{markup}</div>")  # well-formed
    return [each for each in root.iter("svg") if each.get("role") == "img"]


def test_drawings_are_well_formed_and_inside_their_frame(fingerprints):
    for family in compare_runs(fingerprints).families:
        drawn = svgs(curve_markup(family))
        assert len(drawn) == len(family.panels)
        for svg in drawn:
            assert family.title in svg.get("aria-label")
            lines = [each for each in svg.iter("polyline")]
            assert len(lines) == 2
            for line in lines:
                corners = [tuple(map(float, pair.split(","))) for pair in line.get("points").split()]
                assert corners == sorted(corners, key=lambda corner: corner[0])  # from left to right
                assert all(0 < x < WIDTH and 0 < y < HEIGHT for x, y in corners)


def test_points_say_what_they_are(fingerprints):
    (family,) = [one for one in compare_runs(fingerprints).families if one.metric == "attribution_accuracy"]
    titles = [each.text for each in svgs(curve_markup(family))[2].iter("title")]
    assert titles[0].startswith("fingerprint/a, no attack: ")
    assert any(title.startswith("fingerprint/b, JPEG 50: ") and ", n = 200" in title for title in titles)


def test_names_of_experiments_are_escaped(tmp_path):
    run = fingerprint_run(tmp_path / "a", experiment="<script>alert(1)</script>")
    comparison = compare_runs([run])
    comparison.write_html(tmp_path / "page.html")
    assert "<script>alert" not in (tmp_path / "page.html").read_text()

"""The format audit stops leaks, keeps silent on clean sets, and its statistics are right."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from gm_folders import write_gm, write_source
from PIL.PngImagePlugin import PngInfo
from scipy.stats import fisher_exact

from datamodules.gm import GMDataModule
from datamodules.gm_index import audit
from datamodules.gm_index.audit import audit_formats, balanced_vote, cross_fitted_votes, permutation_p_value
from datamodules.gm_index.manifest import Plan
from datamodules.images.pixel_path import PixelPath
from datamodules.images.problems import GMDataError


def audit_message(root, **arguments) -> str:
    with pytest.raises(GMDataError) as caught:
        GMDataModule(root=str(root), **arguments).prepare_data()
    return str(caught.value)


def notes(root, **arguments) -> list[str]:
    datamodule = GMDataModule(root=str(root), **arguments)
    datamodule.setup()
    return datamodule.plan.notes


def test_silent_on_a_clean_set(tmp_path):
    assert notes(write_gm(tmp_path)) == []


def test_png_against_jpeg_shows_the_table(tmp_path):
    write_source(tmp_path, "real-x", 40, suffix="jpg", quality=90)
    write_source(tmp_path, "gan-a", 30)
    write_source(tmp_path, "vae-b", 30)
    message = audit_message(tmp_path)
    assert "sources that can be told apart without looking at the pixels" in message
    assert "file format: names the source with accuracy 0.667 (chance 0.333, p = 0.0005)" in message
    lines = [line.split() for line in message.splitlines()]
    start = next(
        i for i, line in enumerate(lines) if line[:3] == ["-", "file", "format:"] or line[:2] == ["file", "format:"]
    )
    assert lines[start + 1] == ["PNG", "JPEG"]
    assert ["gan-a", "100.0%", "0.0%"] in lines[start : start + 5]
    assert ["real-x", "0.0%", "100.0%"] in lines[start : start + 5]


def test_jpeg_quality_alone(tmp_path):
    write_source(tmp_path, "real-x", 40, suffix="jpg", quality=75)
    write_source(tmp_path, "gan-a", 30, suffix="jpg", quality=95)
    message = audit_message(tmp_path)
    assert "JPEG quantisation tables: names the source with accuracy 1.000 (chance 0.500" in message
    assert "file format: names" not in message


def test_chroma_subsampling_alone(tmp_path):
    write_source(tmp_path, "real-x", 40, suffix="jpg", quality=90, subsampling="4:4:4")
    write_source(tmp_path, "gan-a", 30, suffix="jpg", quality=90, subsampling="4:2:0")
    message = audit_message(tmp_path)
    assert "JPEG chroma subsampling: names the source with accuracy 1.000" in message
    assert "JPEG quantisation tables: names" not in message


def test_size_that_resizing_would_hide(tmp_path):
    write_source(tmp_path, "real-x", 40, size=(32, 32))
    write_source(tmp_path, "gan-a", 30)
    message = audit_message(tmp_path, resize=16)
    assert "size (width x height): names the source with accuracy 1.000" in message
    assert "size (width x height): names the source" in audit_message(tmp_path, resize=16, reencode="png")


def test_mode_metadata_and_extension(tmp_path):
    from PIL import Image

    write_gm(tmp_path)
    for file in (tmp_path / "gan-a").iterdir():
        image = Image.open(file).convert("RGBA")
        note = PngInfo()
        note.add_text("Software", "a generator")
        file.unlink()
        image.save(file.with_suffix(".PNG" if file.stem < "00010" else ".webp"), format="PNG", pnginfo=note)
    message = audit_message(tmp_path)
    for attribute in ("mode", "metadata", "file extension", "all of them together"):
        assert f"{attribute}: names the source with accuracy" in message
    assert "Software" in message
    reencoded = audit_message(tmp_path, reencode="png")
    assert "mode: names the source" in reencoded  # stays in the decoded pixels
    assert "metadata: names" not in reencoded


def test_warn_goes_on_and_says_so(tmp_path):
    write_source(tmp_path, "real-x", 40, suffix="jpg")
    write_source(tmp_path, "gan-a", 30)
    datamodule = GMDataModule(root=str(tmp_path), format_audit="warn")
    with pytest.warns(UserWarning, match="can be told apart without looking at the pixels"):
        datamodule.setup()
    assert len(datamodule.images("train")) > 0
    assert notes(tmp_path, format_audit="off") == []


@pytest.mark.parametrize("reencode", ["png", "jpeg_95"])
def test_reencoding_neutralises_the_format_and_names_what_stays(tmp_path, reencode):
    write_source(tmp_path, "real-x", 40, suffix="jpg", quality=60)
    write_source(tmp_path, "gan-a", 30)
    with pytest.warns(UserWarning, match="what lossy compression did to the pixels before stays"):
        (note,) = notes(tmp_path, reencode=reencode)
    assert "JPEG" in note


def test_reencoding_is_silent_where_nothing_lossy_differs(tmp_path):
    write_source(tmp_path, "real-x", 40, suffix="webp", lossless=True)
    write_source(tmp_path, "gan-a", 30)
    assert "file format: names the source" in audit_message(tmp_path)
    assert notes(tmp_path, reencode="png") == []


def test_lossy_and_lossless_webp_are_two_formats(tmp_path):
    write_source(tmp_path, "real-x", 40, suffix="webp", lossless=True)
    write_source(tmp_path, "gan-a", 30, suffix="webp", quality=80)
    message = audit_message(tmp_path)
    assert "WEBP lossless" in message
    assert "WEBP lossy" in message


def frame(formats: dict[str, list[str]]) -> pd.DataFrame:
    rows = [
        (source, f"{source}{i:030x}", value, ".png", "", "", "", "8x8", "RGB")
        for source, values in formats.items()
        for i, value in enumerate(values)
    ]
    names = ["source", "content", "format", "extension", "jpeg_tables", "jpeg_chroma", "metadata", "size", "mode"]
    return pd.DataFrame(rows, columns=names)


@pytest.mark.parametrize("values", [2, 50])
def test_false_alarms_are_rare_when_the_format_is_independent_of_the_source(values, monkeypatch):
    """40 data sets under the null hypothesis at 1 %: more than 4 alarms have probability below 1e-4."""
    monkeypatch.setattr(audit, "_DRAWS", 199)  # enough to reject at 1 %
    rng = np.random.default_rng(0)
    alarms = 0
    for _ in range(40):
        sets = {f"gan-{k}": [f"F{v}" for v in rng.integers(0, values, 60)] for k in range(4)}
        alarms += any(leak.leaks for leak in audit_formats(frame(sets), PixelPath()))
    assert alarms <= 4


def test_one_odd_file_in_a_large_set_does_not_stop_a_run():
    clean = {"gan-a": ["PNG"] * 1500, "real-x": ["PNG"] * 1499 + ["JPEG"]}
    assert not any(leak.leaks for leak in audit_formats(frame(clean), PixelPath()))


def test_five_percent_of_one_source_do():
    leaky = {"gan-a": ["PNG"] * 1500, "real-x": ["PNG"] * 1425 + ["JPEG"] * 75}
    (leak,) = audit_formats(frame(leaky), PixelPath())
    assert leak.leaks
    assert leak.accuracy == pytest.approx(0.525, abs=0.01)


def test_unbalanced_sources_do_not_hide_a_leak():
    leaky = {"real-x": ["PNG"] * 1900, "gan-a": ["JPEG"] * 30}
    (leak,) = audit_formats(frame(leaky), PixelPath())
    assert leak.leaks
    assert leak.accuracy == pytest.approx(1.0)


def test_values_seen_once_are_no_leak():
    rng = np.random.default_rng(1)
    names = [f"F{number}" for number in rng.permutation(400)]
    assert not any(
        leak.leaks for leak in audit_formats(frame({"gan-a": names[:200], "real-x": names[200:]}), PixelPath())
    )


def test_p_value_agrees_with_fishers_exact_test():
    """For two values and two sources of equal size the statistic is |difference of shares|: Fisher's two-sided test."""
    for odd in (0, 3, 5, 8):
        counts = np.array([[12 - odd, 12], [8 + odd, 8]])
        exact = fisher_exact(counts).pvalue
        assert permutation_p_value(counts) == pytest.approx(exact, abs=4 * np.sqrt(0.25 / 2000))


def test_votes_against_brute_force():
    rng = np.random.default_rng(2)
    values, sources = rng.integers(0, 4, 300), rng.integers(0, 3, 300)
    counts = np.zeros((4, 3), dtype=np.int64)
    np.add.at(counts, (values, sources), 1)
    vote = {v: max(range(3), key=lambda k, v=v: np.mean(values[sources == k] == v)) for v in range(4)}
    recalls = [np.mean([vote[v] == k for v in values[sources == k]]) for k in range(3)]
    assert balanced_vote(counts) == pytest.approx(np.mean(recalls))
    half = np.arange(300) < 150
    named = [0, 0, 0]
    for learn in (half, ~half):
        vote = {v: max(range(3), key=lambda k, v=v: np.mean(values[learn & (sources == k)] == v)) for v in range(4)}
        for value, source in zip(values[~learn], sources[~learn], strict=True):
            named[source] += vote[value] == source
    assert cross_fitted_votes(values, sources, half).tolist() == named


def test_the_plan_keeps_what_the_audit_found_of_every_attribute_that_varies(tmp_path):
    """Leaks or not, with the counts that an interval is made of; on every process."""
    write_source(tmp_path, "real-x", 40, suffix="jpg")
    write_source(tmp_path, "gan-a", 30)
    first, second = (GMDataModule(root=str(tmp_path), format_audit="warn") for _ in range(2))
    with pytest.warns(UserWarning, match="can be told apart"):
        first.prepare_data()
    second._plan = Plan.read(second.settings)  # as a process that is not the first one does
    assert first.file_audit == second.file_audit
    found = {leak.attribute: leak for leak in second.file_audit}
    assert found["file format"].named == [30, 40]
    assert found["file format"].images == [30, 40]
    assert "file format: names the source with accuracy 1.000" in second.describe()["file attributes"]


def test_a_plan_says_that_files_are_alike_or_not_audited(tmp_path):
    write_gm(tmp_path)
    alike, off = GMDataModule(root=str(tmp_path)), GMDataModule(root=str(tmp_path), format_audit="off")
    for datamodule in (alike, off):
        datamodule.setup()
    assert (alike.file_audit, off.file_audit) == ([], None)
    assert alike.describe()["file attributes"] == "the same in all files"
    assert off.describe()["file attributes"] == "not audited (format_audit: off)"

"""What a user sees of a mistake."""

from __future__ import annotations

import pytest

from datamodules import GMDataModule
from lightning_modules.cli.errors import run_command
from lightning_modules.fingerprints.decoders.registry import check_decoder
from lightning_modules.metrics.intervals import percent


def test_bad_data_ends_in_its_message_alone(tmp_path, capsys):
    with pytest.raises(SystemExit) as left:
        run_command(GMDataModule(root=str(tmp_path / "nowhere")).prepare_data)
    assert left.value.code == 2
    told = capsys.readouterr().err
    assert told.startswith("error: GM data set")
    assert "missing folder" in told
    assert "Traceback" not in told


def test_a_mistake_of_ours_keeps_its_traceback():
    def broken():
        raise KeyError("a bug")

    with pytest.raises(KeyError):
        run_command(broken)


def test_an_interrupt_says_that_nothing_is_lost(capsys):
    def interrupted():
        raise KeyboardInterrupt

    with pytest.raises(SystemExit) as left:
        run_command(interrupted)
    assert left.value.code == 130
    assert "the same command goes on from there" in capsys.readouterr().err


def test_a_value_error_that_we_raise_is_a_mistake_of_input_also_inside_a_librarys(capsys):
    def wrapped():
        try:
            check_decoder("hybird", {})
        except ValueError as error:
            raise ValueError("could not build, see below") from error

    with pytest.raises(SystemExit) as left:
        run_command(wrapped)
    assert left.value.code == 2
    assert capsys.readouterr().err == "error: found decoder 'hybird'; did you mean hybrid?\n"


def test_a_value_error_that_nobody_raised_on_purpose_keeps_its_traceback(monkeypatch):
    with pytest.raises(ValueError, match="invalid literal"):
        run_command(lambda: int("three"))
    # inside our code, but by no statement of ours
    with pytest.raises(ValueError, match="Unknown format code"):
        run_command(lambda: percent("three"))

"""What a user sees of a mistake."""

from __future__ import annotations

import pytest
import torch
from torch.multiprocessing import ProcessExitedException

from datamodules import GMDataModule
from lightning_modules.cli.errors import run_command
from lightning_modules.cli.stopping import GO_ON
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
    assert GO_ON in capsys.readouterr().err


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


def test_a_checkpoint_of_other_networks_is_told_in_one_line(capsys):
    layer = torch.nn.Linear(2, 2)

    with pytest.raises(SystemExit) as left:
        run_command(lambda: layer.load_state_dict({"a": torch.zeros(1), "weight": torch.zeros(3, 3)}))
    assert left.value.code == 2
    told = capsys.readouterr().err
    assert told.startswith("error: found a checkpoint whose tensors do not fit the module Linear (Missing key(s)")
    assert "1 lines more" in told
    assert told.count("\n") == 1


def test_a_forked_process_that_has_died_is_told_as_any_other(capsys):
    def killed():
        raise ProcessExitedException("process 1 terminated with signal SIGKILL", 1, 7, -9, "SIGKILL")

    with pytest.raises(SystemExit) as left:
        run_command(killed)
    assert left.value.code == 1
    assert capsys.readouterr().err.startswith("error: process 2 of 2 has died (killed? out of memory?); what is")

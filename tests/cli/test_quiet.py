"""Real warnings reach the user once, in a line; what is no news does not, and nothing else is left out."""

from __future__ import annotations

import logging
import sys
import warnings

import pytest
from pytorch_lightning.utilities import rank_zero_warn
from pytorch_lightning.utilities.rank_zero import rank_zero_info

from lightning_modules.cli import processes, quiet
from lightning_modules.cli.errors import run_command
from lightning_modules.cli.stopping import THIS
from lightning_modules.common.lifeline import Lifeline


class Taker(Lifeline):
    active = True

    def __init__(self, takes=True):
        self.taken, self.takes = [], takes

    def warn(self, text):
        self.taken.append(text)
        return self.takes


OF_LIGHTNING = (logging.StreamHandler,)


def test_a_warning_is_one_line_and_is_told_once(capsys):
    def main():
        for _ in range(2):
            warnings.warn("the images\n  look grouped", UserWarning, stacklevel=1)
            rank_zero_warn("the images\n  look grouped")
        logger = logging.getLogger("lightning_modules.of_a_test")
        logger.propagate = False  # pytest has handlers of its own
        logger.warning("%d prefixes taken off", 3)

    run_command(main)
    assert capsys.readouterr().err == "warning: the images look grouped\nwarning: 3 prefixes taken off\n"


def test_another_process_hands_its_warnings_to_the_first(capsys, monkeypatch):
    monkeypatch.setenv("RANK", "2")
    taker = Taker()

    def main():
        warnings.warn("early", UserWarning, stacklevel=1)  # before it is connected
        THIS.lifeline = taker
        THIS.pass_warnings_on()
        warnings.warn("late", UserWarning, stacklevel=1)

    run_command(main)
    assert taker.taken == ["early", "late"]
    assert capsys.readouterr().err == ""


def test_warnings_that_nobody_takes_are_told_in_the_end(capsys, monkeypatch):
    monkeypatch.setenv("RANK", "2")
    run_command(lambda: warnings.warn("of this process alone", UserWarning, stacklevel=1))
    assert capsys.readouterr().err == "warning: of this process alone\n"


WARNINGS = [
    ("pytorch_lightning.utilities._pytree", "`isinstance(treespec, LeafSpec)` is deprecated, use", False),
    ("somebody.elses", "The dirpath has changed from 'a' to 'b'", True),
    ("pytorch_lightning.callbacks.model_checkpoint", "The dirpath has changed from 'a' to 'b'", False),
    ("pytorch_lightning.callbacks.model_checkpoint", "`ModelCheckpoint(monitor='x')` could not find", True),
    ("pytorch_lightning.trainer.connectors.logger_connector.result",
     "It is recommended to use `self.log('test/fdr', ..., sync_dist=True)` when", False),
    ("pytorch_lightning.trainer.connectors.data_connector", "The 'test_dataloader' does not have many workers", False),
    ("pytorch_lightning.trainer.setup", "GPU available but not used. You can set it by", True),
]  # fmt: skip


@pytest.mark.parametrize(("module", "message", "shown"), WARNINGS)
def test_warnings_are_left_out_by_their_words_and_their_module(module, message, shown, capsys):
    def main():
        quiet.hush_libraries()
        warnings.warn_explicit(message, UserWarning, "file.py", 1, module=module)

    run_command(main)
    assert bool(capsys.readouterr().err) is shown


@pytest.mark.parametrize(
    ("said", "shown"),
    [
        ("GPU available: False, used: False", False),
        ("💡 Tip: For seamless cloud logging and experiment tracking, try installing", False),
        ("`Trainer.fit` stopped: `max_epochs=1` reached.", False),
        ("Using 16bit Automatic Mixed Precision (AMP)", True),
    ],
)
def test_what_lightning_says_of_its_set_up_is_left_out(said, shown, monkeypatch):
    (handler,) = (each for each in logging.getLogger("pytorch_lightning").handlers if type(each) in OF_LIGHTNING)
    told = []
    monkeypatch.setattr(handler, "emit", lambda record: told.append(record.getMessage()))
    quiet.hush_libraries()
    rank_zero_info(said)
    assert told == ([said] if shown else [])


def test_wandb_is_not_given_what_it_warns_about():
    logger = type("Logger", (), {"_wandb_init": {"anonymous": None, "project": "a"}})()
    quiet.hush_wandb(logger)
    assert logger._wandb_init == {"project": "a"}


@pytest.mark.parametrize(
    ("environment", "first", "together"),
    [
        ({}, True, False),
        ({"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "2"}, True, True),
        ({"RANK": "2", "LOCAL_RANK": "0", "WORLD_SIZE": "4"}, False, True),
        ({"NODE_RANK": "1"}, False, False),  # of Lightning, before it launches others
        ({"SLURM_PROCID": "1", "SLURM_NTASKS": "2", "SLURM_JOB_NAME": "train"}, False, True),
        ({"SLURM_PROCID": "0", "SLURM_NTASKS": "2", "SLURM_JOB_NAME": "bash"}, True, False),
        ({"LOCAL_RANK": "1", "WORLD_SIZE": "2", processes.LAUNCHED: "run"}, False, False),
    ],
)
def test_which_process_this_is(environment, first, together, monkeypatch):
    for name in ("RANK", "LOCAL_RANK", "NODE_RANK", "WORLD_SIZE", processes.LAUNCHED):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert (processes.rank() == 0) is first
    assert processes.started_together() is together


@pytest.mark.parametrize(("rank", "waits"), [("0", 0.0), ("4", 3.0), ("5", 6.0)])
def test_the_first_process_speaks_and_the_others_wait_one_machine_after_the_other(rank, waits, monkeypatch, capsys):
    waited = []
    monkeypatch.setattr(processes.time, "sleep", waited.append)
    for name, value in {"RANK": rank, "LOCAL_RANK": str(int(rank) % 4), "WORLD_SIZE": "8"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv(processes.LAUNCHED, raising=False)
    with pytest.raises(SystemExit):
        run_command(lambda: sys.exit("found a mistake"))
    assert sum(waited) == waits
    assert capsys.readouterr().err == "found a mistake\n"

"""Ties a trainer to signals and to the other processes of its run: none waits for a dead one or outlives the rest."""

from __future__ import annotations

import signal
import threading
from functools import partial
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.strategies.launchers import _MultiProcessingLauncher

from lightning_modules.cli import stopping
from lightning_modules.cli.stopping import THIS
from lightning_modules.common.lifeline import hold_lifeline


def watch_over(trainer: pl.Trainer) -> None:
    """Let this project's signal handlers hold while the trainer runs, and its processes miss each other at once.

    Nothing is done outside of a command (`errors.run_command`): a program that uses the modules has its own ways.
    """
    if not stopping.handlers_are_ours():
        return
    connector: Any = trainer._signal_connector
    # Lightning's own handler of SIGTERM only takes a note, or waits for all other processes
    connector.register_signal_handlers = partial(_register_keeping_ours, connector)
    launcher = trainer.strategy.launcher
    THIS.size = trainer.world_size
    if launcher is not None:
        THIS.started.append(launcher.kill)
    # torch sees the deaths of processes that it has forked itself
    if trainer.world_size > 1 and not isinstance(launcher, _MultiProcessingLauncher):
        strategy: Any = trainer.strategy
        strategy.setup_environment = partial(_set_up_and_connect, trainer)


def _register_keeping_ours(connector: Any) -> None:
    ours = {number: signal.getsignal(number) for number in stopping.SIGNALS}
    type(connector).register_signal_handlers(connector)
    if threading.current_thread() is threading.main_thread():
        for number, handler in ours.items():
            signal.signal(number, handler)


def _set_up_and_connect(trainer: pl.Trainer) -> None:
    """Set the strategy's process group up, and connect its processes the first time."""
    strategy: Any = trainer.strategy
    type(strategy).setup_environment(strategy)
    if THIS.lifeline.active or THIS.connected:
        return
    THIS.connected = True
    environment = strategy.cluster_environment
    THIS.lifeline = hold_lifeline(
        trainer.global_rank,
        trainer.world_size,
        environment.main_address,
        strategy.broadcast,
        THIS.leave,
        THIS.warn,
    )
    if not THIS.lifeline.active:
        return
    stopping.end_with_launcher(False)  # the connection tells it, and by which process
    THIS.launcher = None
    THIS.pass_warnings_on()
    for thread in threading.enumerate():
        if thread.name == "child-process-observer":  # it kills this process too, without a word of why
            thread._child_processes = []  # type: ignore[attr-defined]

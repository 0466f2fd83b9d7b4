"""What of the libraries' words reaches a user: warnings that are real, in one line, once over all processes of a run.

Left out are advertisements, progress of Lightning's own set-up, and warnings about what this project does on purpose:
each by its exact words and the module that says them, so that a new one is seen.
"""

from __future__ import annotations

import logging
import os
import re
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from lightning_modules.cli.processes import rank
from lightning_modules.cli.stopping import THIS

_RANK_ZERO = r"(pytorch_lightning|lightning_fabric)\.utilities\.rank_zero"
_LOGGED = (
    (_RANK_ZERO, r"(GPU|TPU|HPU|IPU) available: "),
    (_RANK_ZERO, r".*Tip: For seamless cloud "),
    (_RANK_ZERO, r"-+\ndistributed_backend=\w+\nAll distributed processes registered"),
    (_RANK_ZERO, r"(Restoring states|Restored all states|Loaded model weights) from the checkpoint"),
    (_RANK_ZERO, r"Loading `train_dataloader` to estimate number of stepping batches"),
    (_RANK_ZERO, r"`Trainer\.fit` stopped: "),
    (_RANK_ZERO, r"`weights_only` was not set, defaulting to "),
    (r"lightning_fabric\.utilities\.seed", r"(\[rank: \d+\] )?Seed set to "),
    (r"lightning_fabric\.utilities\.distributed", r"Initializing distributed: GLOBAL_RANK: "),
)
"""Loggers, and how what they say begins."""
_WARNED = (
    (r"pytorch_lightning\.utilities\._pytree", r"`isinstance\(treespec, LeafSpec\)` is deprecated"),
    (r"pytorch_lightning\.trainer\.connectors\.logger_connector\.result",
     r"It is recommended to use `self\.log\('[^']+', \.\.\., sync_dist=True\)`"),  # every process computes the same
    (r"pytorch_lightning\.callbacks\.model_checkpoint", r"The dirpath has changed from "),  # in a test
    (r"pytorch_lightning\.callbacks\.model_checkpoint", r"Checkpoint directory .* exists and is not empty"),
    (r"pytorch_lightning\.loops\.fit_loop", r"The number of training batches \(\d+\) is smaller than the logging"),
    (r"pytorch_lightning\.loops\.fit_loop", r"Found \d+ module\(s\) in eval mode at the start"),  # frozen starts
    (r"pytorch_lightning\.trainer\.connectors\.data_connector", r"The '\w+' does not have many workers"),
    (r"lightning_fabric\.loggers\.csv_logs", r"Experiment logs directory .* exists and is not empty"),
    (r"lightning_fabric\.utilities\.cloud_io", r"You are using `torch\.load` with `weights_only=False`"),
)  # fmt: skip
"""Modules, and how their warnings begin."""

_TRACKER = "ignore:resource_tracker"
"""An option for Python's helper process that clears up after processes: when a stopped command ends at once, it says
that it has something to clear up."""


def hush_libraries() -> None:
    """Leave out what is no news; once Lightning has been imported, whose handlers print."""
    for module, message in _WARNED:
        warnings.filterwarnings("ignore", message=message, module=module)
    for name in ("pytorch_lightning", "lightning_fabric"):
        for handler in logging.getLogger(name).handlers:
            if not any(isinstance(each, _Unwanted) for each in handler.filters):
                handler.addFilter(_Unwanted())


def hush_wandb(logger: Any) -> None:
    """Keep Lightning from giving W&B an option that W&B warns about."""
    getattr(logger, "_wandb_init", {}).pop("anonymous", None)


class _Unwanted(logging.Filter):
    def filter(self, record: logging.LogRecord) -> bool:
        said = record.getMessage()
        return not any(re.fullmatch(name, record.name) and re.match(words, said) for name, words in _LOGGED)


@contextmanager
def tell_warnings_once() -> Iterator[None]:
    """Show warnings as one line each, and each text once; other processes hand theirs to the first one."""
    teller = Teller()
    with warnings.catch_warnings():
        warnings.showwarning = teller.show
        handler, logging.lastResort = logging.lastResort, _LastResort(teller)
        sys.warnoptions.append(_TRACKER)
        THIS.warn, THIS.pass_warnings_on = teller.tell, teller.hand_over
        try:
            yield
        finally:
            logging.lastResort = handler
            sys.warnoptions.remove(_TRACKER)
            teller.flush()


class Teller:
    """Tells warnings on the first process."""

    def __init__(self) -> None:
        self.told: set[str] = set()
        self.process = os.getpid()
        self.waiting: list[str] = []  # of another process, until it is connected

    def show(self, message: Warning | str, category: type[Warning], *_where: Any, **_how: Any) -> None:
        """In place of `warnings.showwarning`."""
        self.tell(str(message))

    def tell(self, text: str) -> None:
        """Tell a warning, or hand it to the first process."""
        if text in self.told:
            return
        self.told.add(text)
        if rank() == 0 or os.getpid() != self.process:  # a worker has no other way
            sys.stderr.write(f"warning: {' '.join(text.split())}\n")
            return
        self.waiting.append(text)
        if THIS.lifeline.active:
            self.hand_over()

    def hand_over(self) -> None:
        """Give the first process what has waited."""
        self.waiting = [text for text in self.waiting if not THIS.lifeline.warn(text)]

    def flush(self) -> None:
        """Tell what nobody has taken."""
        self.hand_over()
        for text in self.waiting:
            sys.stderr.write(f"warning: {' '.join(text.split())}\n")


class _LastResort(logging.Handler):
    """Messages of loggers that have no handler, those of this project among them."""

    def __init__(self, teller: Teller) -> None:
        super().__init__(logging.WARNING)
        self.teller = teller

    def emit(self, record: logging.LogRecord) -> None:
        self.teller.tell(record.getMessage())

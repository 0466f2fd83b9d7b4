"""Child processes that do not outlive the one that started them, however it ends."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import threading
import time

_PR_SET_PDEATHSIG = 1  # linux/prctl.h
_SECONDS = 1.0  # between two looks, where the system does not tell


def die_with_parent(parent: int) -> None:
    """End this process as soon as the one with the id `parent`, which has started it, is gone; call it at once.

    A killed process runs no handler, and a child that waits for it, or writes to a pipe that its brothers hold open,
    would stay for good with all the memory that it shares. Linux sends SIGKILL; elsewhere a thread looks every second.
    Ctrl-C, which a terminal sends to all, is left to the parent.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if sys.platform == "linux" and ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL) == 0:
        if os.getppid() != parent:  # it died before the call
            os._exit(1)
        return
    threading.Thread(target=_watch, args=(parent,), daemon=True).start()


def _watch(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(_SECONDS)
    os._exit(1)

"""Whether a run's W&B logger is online: only where that was asked for."""

from __future__ import annotations

import netrc
import os
from collections.abc import MutableMapping
from pathlib import Path
from urllib.parse import urlsplit


def choose_wandb_mode(environment: MutableMapping[str, str] = os.environ) -> str | None:
    """Set `WANDB_MODE` where it is not set: offline, except for a run of a sweep agent, whose server waits for it.

    Args:
        environment: of this process; changed.

    Returns:
        A warning for the user where a sweep agent's run has to stay offline; else None.
    """
    if "WANDB_MODE" in environment:
        return None
    if environment.get("WANDB_SWEEP_ID") and _has_login(environment):
        return None  # W&B's own default: online
    environment["WANDB_MODE"] = "offline"
    if not environment.get("WANDB_SWEEP_ID"):
        return None
    return (
        f"found a run of the W&B sweep {environment['WANDB_SWEEP_ID']} but no login, so it stays offline and the sweep "
        "gets none of its numbers; log in with `wandb login` or WANDB_API_KEY, or set WANDB_MODE=offline to mean it"
    )


def _has_login(environment: MutableMapping[str, str]) -> bool:
    """Whether W&B's client would find a key: in the environment, or in the netrc file for its server."""
    if environment.get("WANDB_API_KEY") or environment.get("WANDB_IDENTITY_TOKEN_FILE"):
        return True
    server = urlsplit(environment.get("WANDB_BASE_URL", "https://api.wandb.ai")).hostname or ""
    given = environment.get("NETRC")
    places = [Path(given).expanduser()] if given else [Path.home() / name for name in (".netrc", "_netrc")]
    for place in places:
        try:
            if netrc.netrc(place).authenticators(server) is not None:
                return True
        except (OSError, netrc.NetrcParseError):
            continue
    return False

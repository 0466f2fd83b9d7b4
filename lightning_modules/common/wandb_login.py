"""Whether there is a login for Weights & Biases, found without importing its client or asking its server."""

from __future__ import annotations

import netrc
import os
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import urlsplit


def has_login(environment: Mapping[str, str] = os.environ) -> bool:
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

"""Whether there is a login for Weights & Biases, found without importing its client or asking its server."""

from __future__ import annotations

import netrc
import os
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import urlsplit

_CLOUD = frozenset({"api.wandb.ai", "api.forge.coreweave.com"})
"""Names of W&B's own server, an earlier and a later one (client 0.31); a login for one serves the other."""


def has_login(environment: Mapping[str, str] = os.environ) -> bool:
    """Whether W&B's client would find a key: in the environment, or in the netrc file for its server."""
    if environment.get("WANDB_API_KEY") or environment.get("WANDB_IDENTITY_TOKEN_FILE"):
        return True
    base = environment.get("WANDB_BASE_URL")
    servers = _CLOUD if base is None else {urlsplit(base).hostname or "", urlsplit(base).netloc}
    if servers & _CLOUD:
        servers = servers | _CLOUD
    given = environment.get("NETRC")
    places = [Path(given).expanduser()] if given else [Path.home() / name for name in (".netrc", "_netrc")]
    for place in places:
        try:
            file = netrc.netrc(place)
        except (OSError, netrc.NetrcParseError):
            continue
        if any(file.authenticators(server) is not None for server in servers):
            return True
    return False

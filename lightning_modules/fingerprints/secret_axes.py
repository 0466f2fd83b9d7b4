"""Key axes drawn from a secret: whoever has the generator alone can fit its principal axes, but not find the key's.

The key's principal axes, and others after them where a wider window is asked for, span a subspace. A secret turns it:
the key lies on the first axes of a random orthonormal basis of it. Without the secret a bit is a sign along an unknown
direction, so that it can neither be read nor chosen. What an image carries can still be *copied*, if the window is no
wider than the key: docs/fingerprint_security.md has the measurements.
"""

from __future__ import annotations

import hashlib
import stat
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from lightning_modules.fingerprints.layouts import PlacedAxes

LEAST_BYTES = 32
"""Of a secret: 64 hexadecimal digits have 64 bytes, which hold 256 bits."""
MAKE_ONE = "(umask 077; python -c 'import secrets; print(secrets.token_hex(32))' > axes.secret)"


def read_secret(path: Path) -> bytes:
    """The secret in a file, without blanks around it.

    Raises:
        ValueError: no such file, one that others can read, or one too short to be a secret.
    """
    if not path.is_file():
        raise ValueError(f"found no file {path}, expected a secret for the key's axes; make one: {MAKE_ONE}")
    if not is_private(path):
        raise ValueError(f"{path}: others can read this secret; make the file yours alone: chmod 600 {path}")
    secret = path.read_bytes().strip()
    if len(secret) < LEAST_BYTES:
        raise ValueError(
            f"{path}: found a secret of {len(secret)} bytes, expected {LEAST_BYTES} at least, drawn at random; make "
            f"one: {MAKE_ONE}"
        )
    return secret


def is_private(path: Path) -> bool:
    """Whether a file that exists can be read by its owner alone."""
    return path.is_file() and not path.stat().st_mode & (stat.S_IRWXG | stat.S_IRWXO)


def check_window(window: int, taken: int, room: int) -> None:
    """Refuse, by a ValueError, a window of fewer axes than a key takes, or of more than there are from its first."""
    if window and not taken <= window <= room:
        raise ValueError(
            f"found key.window {window}, expected 0 or {taken} to {room}: the {taken} axes of the key and those of "
            "less variance that follow them"
        )


def turn_axes(placed: PlacedAxes, secret: bytes, window: int) -> PlacedAxes:
    """Turn the key's axes within the window: its own and those that follow them in variance.

    Args:
        placed: axes by `place_key`, in the layout `flat` or `repeated`.
        secret: what the turn is derived from; equal secrets give equal axes.
        window: number of axes that the key's are drawn from, at least those that it takes; 0 for just these.

    Returns:
        The same subspace, divided anew. Axes outside the key stay uncorrelated with each other, not with the key's.

    Raises:
        ValueError: a window narrower than the key, or wider than there are axes.
    """
    copies, bits, dim = placed.key_axes.shape
    taken = copies * bits
    follows = int((placed.other_deviation > placed.key_deviation.min()).sum())  # first axis of less variance
    room = taken + len(placed.other_deviation) - follows
    check_window(window, taken, room)
    extra = max(window - taken, 0)
    drawn_from = torch.cat([placed.key_axes.flatten(0, 1), placed.other_axes[follows : follows + extra]])
    variance = torch.cat([placed.key_deviation.flatten(), placed.other_deviation[follows : follows + extra]]).square()
    turn = random_rotation(taken + extra, secret)
    key, rest = turn[:taken], turn[taken:]
    kept = torch.cat([placed.other_axes[:follows], placed.other_axes[follows + extra :]])
    kept_deviation = torch.cat([placed.other_deviation[:follows], placed.other_deviation[follows + extra :]])
    if extra:
        values, vectors = torch.linalg.eigh(rest * variance @ rest.T)
        kept = torch.cat([kept, vectors.T @ rest @ drawn_from])
        kept_deviation = torch.cat([kept_deviation, values.clamp_min(0.0).sqrt()])
    order = kept_deviation.argsort(descending=True, stable=True)
    return replace(
        placed,
        key_axes=(key @ drawn_from).view(copies, bits, dim),
        key_deviation=(key.square() @ variance).sqrt().view(copies, bits),
        other_axes=kept[order],
        other_deviation=kept_deviation[order],
    )


def random_rotation(size: int, secret: bytes) -> Tensor:
    """An orthonormal matrix, float64 `(size, size)`, uniform over all of them (Haar), derived from a secret.

    Its Gaussian matrix is a stream of SHAKE-256, so that no small seed stands between secret and axes.
    """
    stream = hashlib.shake_256(b"key axes\0" + secret).digest(8 * size * size)
    words = np.frombuffer(stream, dtype="<u8").reshape(size, size)
    uniform = (torch.from_numpy((words >> np.uint64(11)).astype(np.float64)) + 0.5) / 2.0**53
    basis, upper = torch.linalg.qr(torch.special.ndtri(uniform))
    signed: Tensor = (basis * upper.diagonal().sign()).T  # which makes the decomposition one, and the draw uniform
    return signed.contiguous()

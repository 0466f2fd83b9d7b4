"""Where a LatentFingerprint gets its fingerprint: fitted to the generator's latents, or from a checkpoint."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lightning_modules.common.progress import Progress
from lightning_modules.common.weights import content_hash
from lightning_modules.fingerprints.fingerprint import Fingerprint, FingerprintError, make_fingerprint
from lightning_modules.fingerprints.layouts import REPEATS, check_layout, place_key
from lightning_modules.fingerprints.secret_axes import check_window, is_private, read_secret, turn_axes
from lightning_modules.fingerprints.settings import KeySettings
from lightning_modules.generators.checkpoints.hub import hub_name

FIT_BATCH = 256
KEPT_AXES = 2048
"""Axes outside the key that are stored and estimated one by one."""
MANY = 4096
"""Coordinates of a latent whose axes take minutes to compute, without progress that could be shown."""


def _channels(generator: Any) -> int:
    return int(getattr(generator, "latent_shape", (1,))[0])


def check_key(generator: Any, key: KeySettings) -> None:
    """Refuse, as `check_layout` and `check_window` do, a key that does not fit a generator's latents."""
    shift = check_layout(generator.latent_dim, key.bits, key.shift, key.layout, _channels(generator))
    check_window(key.window, key.bits * (REPEATS if key.layout == "repeated" else 1), generator.latent_dim - shift)


def check_secret(key: KeySettings) -> None:
    """Refuse, as `read_secret` does, a secret that the axes cannot be drawn from."""
    if key.secret is not None:
        read_secret(Path(key.secret))


_OF_A_KEY = ("bits", "shift", "sigma", "centred", "layout", "latent_prior")


def check_same_key(key: KeySettings, fingerprint: Fingerprint, file: str) -> None:
    """Refuse settings of a key that contradict the fingerprint which a training goes on with.

    Settings that are as by default say nothing.

    Raises:
        ValueError: names those that differ, with what the fingerprint has.
    """
    width = fingerprint.latent_dim // (len(fingerprint.key_axes) if fingerprint.layout == "per_channel" else 1)
    default, differing = KeySettings(), []
    for name in _OF_A_KEY:
        asked, there = getattr(key, name), getattr(fingerprint, name)
        same = (asked - there) % width == 0 if name == "shift" else asked == there
        if asked != getattr(default, name) and not same:
            differing.append(f"key.{name} {asked} ({there} in the fingerprint)")
    if (key.secret is not None or key.window) and not is_private(Path(file)):
        differing.append("key.secret or key.window (public axes in the fingerprint)")
    if differing:
        raise ValueError(
            f"{file}: found {', '.join(differing)}, expected the key of the fingerprint that the training goes on "
            "with: leave these settings out, or leave out `fingerprint` to fit a new one, which has keys of its own"
        )


def sample_bank(generator: Any, size: int, seed: int) -> Tensor:
    """The first latents `(size, d)` of those that the axes are fitted to, to train on; empty for none."""
    parts = []
    with Progress("sampling latents", size, "latent") as progress:
        for start in range(0, size, FIT_BATCH):
            parts.append(generator.sample_latents(min(FIT_BATCH, size - start), seed + 1, start))
            progress.update(len(parts[-1]))
    return torch.cat(parts) if parts else torch.empty(0)


@torch.no_grad()
def fit_fingerprint(generator: Any, name: str, key: KeySettings, seed: int, banked: Tensor) -> Fingerprint:
    """Fit a fingerprint to latents of a generator that was loaded by `name`; those `banked` are not sampled again."""

    def natural() -> Iterator[Tensor]:  # anew for each pass over the latents
        with Progress("fitting axes", key.fit_latents, "latent") as progress:
            for start in range(0, key.fit_latents, FIT_BATCH):
                stop = min(start + FIT_BATCH, key.fit_latents)
                if stop <= len(banked):
                    yield banked[start:stop]
                else:
                    yield generator.sample_latents(stop - start, seed + 1, start)
                progress.update(stop - start)
        if generator.latent_dim >= MANY:
            sys.stderr.write(f"note: decomposing {generator.latent_dim:,} x {generator.latent_dim:,} covariances\n")

    # of one of the hub with the commit, since its main branch may move
    pinned = getattr(generator, "origin", {}).get("hub")
    reproducible_name = str(pinned) if pinned is not None and hub_name(name) is not None else name
    kept = None if key.window else KEPT_AXES  # those that a window takes in may lie beyond
    placed = place_key(natural, generator.latent_dim, key.bits, key.shift, key.layout, _channels(generator), kept)
    if key.secret is not None:
        placed = turn_axes(placed, read_secret(Path(key.secret)), key.window)
    return make_fingerprint(
        placed,
        key.sigma,
        key.shift,
        key.layout,
        content_hash(generator.state_dict()),
        reproducible_name,
        key.latent_prior,
        str(getattr(generator, "noise", "")),
        KEPT_AXES,
        key.centred,
        getattr(generator, "sampling", {}),
    )


def checkpoint_fingerprint(
    checkpoint: Mapping[str, Any], generator: Any, name: str, read: Fingerprint | None = None, file: str | None = None
) -> Fingerprint:
    """The fingerprint that a checkpoint carries, if it belongs to the generator and is that of the file, if any.

    Raises:
        FingerprintError: as `stored_fingerprint`, a fingerprint of another generator, or another than the file's.
    """
    fingerprint = stored_fingerprint(checkpoint)
    found = content_hash(generator.state_dict())
    if fingerprint.generator != found:
        raise FingerprintError(
            f"found the generator {name} with hash {found[:12]}, expected that of the checkpoint's fingerprint, "
            f"{fingerprint.generator[:12]} ({fingerprint.generator_name}); name the generator that the fingerprint "
            "was made for"
        )
    if read is not None and read.id != fingerprint.id:
        raise FingerprintError(
            f"found the fingerprint {read.id[:12]} in {file}, expected that of the checkpoint, {fingerprint.id[:12]}; "
            "leave out the file, or begin a new training with it"
        )
    return fingerprint


def stored_fingerprint(checkpoint: Mapping[str, Any]) -> Fingerprint:
    """The fingerprint that a checkpoint carries, whatever its generator.

    Raises:
        FingerprintError: it holds none, or one of another version of this project.
    """
    if "fingerprint" not in checkpoint:
        raise FingerprintError(
            "found a checkpoint without fingerprint, expected one that a training of LatentFingerprint left; name "
            "that run with --ckpt_path"
        )
    stored = checkpoint["fingerprint"]
    if different := {field.name for field in fields(Fingerprint)} ^ set(stored):
        raise FingerprintError(
            f"found a checkpoint of another version of this project (its fingerprint differs in "
            f"{', '.join(sorted(different))}); read it with the version that wrote it, or train again"
        )
    return Fingerprint(**stored)


def axes_outside(generator: Any, key: KeySettings, fingerprint: Fingerprint | None) -> int:
    """Number of axes outside the key that a network estimates, of the fingerprint or of the one to be fitted."""
    if fingerprint is not None:
        bits, copies = fingerprint.bits, len(fingerprint.key_axes)
    else:
        bits, copies = key.bits, {"flat": 1, "repeated": REPEATS, "per_channel": _channels(generator)}[key.layout]
    return int(min(generator.latent_dim - bits * copies, KEPT_AXES))

"""What `evaluate.py predict` is to do, by checkpoint and options; mistakes are found before anything is built."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from lightning_modules.cli.checkpoint_file import EXPECTED, read_structure
from lightning_modules.cli.run_folder import run_folder_of
from lightning_modules.cli.users import counted
from lightning_modules.common.files import file_hash
from lightning_modules.common.shipped import program
from lightning_modules.fingerprints.fingerprint import FILE_NAME as FINGERPRINT
from lightning_modules.fingerprints.fitting import stored_fingerprint
from lightning_modules.fingerprints.unmarked_bank import FILE_NAME
from lightning_modules.fingerprints.users.key_registry import KeyRegistry, read_registry
from lightning_modules.metrics.evidence import most_users, smallest_p_value

FALSE_POSITIVE_RATE = 1e-6
FINGERPRINT_OPTIONS = {
    "registry": None,
    "false_positive_rate": FALSE_POSITIVE_RATE,
    "combine": False,
    "show_bits": False,
}
"""Options that only fingerprints know, with their defaults."""
ATTRIBUTOR_OPTIONS = {"as_set": False}
"""Options that only attributors know, likewise."""


@dataclass(frozen=True)
class PredictionPlan:
    """What a checkpoint lets `predict` do."""

    kind: str  # `attributor` or `fingerprint`, by what the checkpoint holds
    image_size: list[int] | None  # [height, width] in pixels that images must have; None: it does not say
    trained_on: dict[str, dict[str, int]] = field(default_factory=dict)  # formats, modes, sizes of training files
    registry: KeyRegistry | None = None  # users and keys that a fingerprint's images are compared with
    false_positive_rate: float = FALSE_POSITIVE_RATE  # the largest, over all users together, for an image without key
    combine: bool = False  # whether all images get one verdict together
    show_bits: bool = False  # whether decoded bits are written
    checkpoint_hash: str = ""  # SHA-256 of the checkpoint's file
    fresh: bool = False  # whether an unfinished prediction is begun anew
    as_set: bool = False  # whether all images get one verdict together, as of one source
    bank: Path | None = None  # decoded images without key, where the fingerprint's run folder has them

    @property
    def owner(self) -> str:
        """What the checkpoint is of, in words."""
        return f"{'an' if self.kind == 'attributor' else 'a'} {self.kind}"

    def cannot_name(self) -> str | None:
        """Why no image whatever could be attributed at this rate, for a warning; None where one can be."""
        if self.registry is None or not len(self.registry.users):
            return None
        bits, users = self.registry.bits, len(self.registry.users)
        most = most_users(bits, self.false_positive_rate)
        if users <= most:
            return None
        whom = f"can tell {counted(most)} apart at most" if most else "can name nobody"
        return (
            f"found keys of {bits} bits, {counted(users)} and a false-positive rate of {self.false_positive_rate:g}: "
            f"nobody is named, not even where all bits agree, since keys of {bits} bits {whom} at this rate; expected "
            "longer keys, fewer users, or at least --false_positive_rate "
            f"{_round_up(users * smallest_p_value(bits))}"
        )


def plan_prediction(checkpoint: Path, options: Mapping[str, Any]) -> PredictionPlan:
    """Read what a checkpoint holds, check the `FINGERPRINT_OPTIONS` against it, and read the registry of a fingerprint.

    Raises:
        ValueError: a checkpoint of something else, options of the other kind, no registry, one that cannot be used or
            has keys for another fingerprint, or a rate outside (0, 1).
    """
    saved = read_checkpoint(checkpoint)
    always: dict[str, Any] = {"checkpoint_hash": file_hash(checkpoint), "fresh": bool(options["fresh"])}
    if "attributor" in saved:
        given = [name for name, default in FINGERPRINT_OPTIONS.items() if options[name] != default]
        if given:
            raise ValueError(
                f"found {' and '.join(f'--{name}' for name in given)} with the checkpoint of an attributor, which has "
                "sources and no users; expected none of them, or --ckpt_path of a training of a fingerprint"
            )
        known = saved["attributor"]
        files, as_set = known.get("training_files", {}), bool(options["as_set"])
        return PredictionPlan("attributor", list(known["image_size"]), files, **always, as_set=as_set)
    if given := [name for name, default in ATTRIBUTOR_OPTIONS.items() if options[name] != default]:
        raise ValueError(
            f"found {' and '.join(f'--{name}' for name in given)}, of attributors alone, with a checkpoint of another "
            "kind; leave it out; a fingerprint's verdict over all images is --combine true"
        )
    if "fingerprint" not in saved:
        raise ValueError(
            f"{checkpoint}: found neither an attributor nor a fingerprint, expected a checkpoint of one of the two; "
            "train one with train.py"
        )
    file = run_folder_of(checkpoint) / FINGERPRINT
    create = f"{program('users')} create users.json NAME --fingerprint {file}"
    if options["registry"] is None:
        raise ValueError(
            f"found no --registry, expected the file of users and keys to compare images with; make one with `{create}`"
        )
    rate = float(options["false_positive_rate"])
    if not 0.0 < rate < 1.0:
        raise ValueError(f"found --false_positive_rate {rate:g}, expected a number between 0 and 1, such as 1e-6")
    registry = read_registry(Path(options["registry"]), stored_fingerprint(saved))
    if not registry.users:
        raise ValueError(f"{options['registry']}: found no user, expected at least one; register one with `{create}`")
    size, bank = saved.get("image_size"), run_folder_of(checkpoint) / FILE_NAME
    return PredictionPlan(
        "fingerprint",
        None if size is None else [int(side) for side in size],
        registry=registry,
        false_positive_rate=rate,
        combine=bool(options["combine"]),
        show_bits=bool(options["show_bits"]),
        bank=bank if bank.is_file() else None,
        **always,
    )


def read_checkpoint(checkpoint: Path) -> dict[str, Any]:
    """What a checkpoint holds, tensors mapped and not read; a ValueError if it is none of a training run."""
    read_structure(checkpoint)  # what torch.load says of other files helps nobody
    try:
        saved = torch.load(checkpoint, map_location="cpu", weights_only=True, mmap=True)
    except (RuntimeError, pickle.UnpicklingError, EOFError, ValueError, KeyError, OSError) as error:
        why = "it holds objects of another program" if isinstance(error, pickle.UnpicklingError) else "it is damaged"
        raise ValueError(f"{checkpoint}: found a checkpoint that cannot be read, {why}; {EXPECTED}") from error
    return saved if isinstance(saved, dict) else {}


def _round_up(rate: float) -> str:
    """A rate in two digits, not below itself."""
    text = f"{rate:.1e}"
    return text if float(text) >= rate else f"{rate * 1.05:.1e}"

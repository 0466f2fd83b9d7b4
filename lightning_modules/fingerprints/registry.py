"""The registry of users: who holds which key. Keys are secrets: the file is its owner's alone, nothing is logged."""

from __future__ import annotations

import fcntl
import json
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from lightning_modules.common.files import check_file
from lightning_modules.fingerprints.fingerprint import Fingerprint
from lightning_modules.fingerprints.fingerprint_file import FingerprintError
from lightning_modules.fingerprints.keys import key_from_text, key_to_text, new_key
from lightning_modules.fingerprints.private_file import replace_file

FORMAT = "manifold-fingerprints registry"
VERSION = 2


@dataclass
class Registry:
    """Users and their keys, in order of registration.

    Attributes:
        bits: length of a key.
        users: key, bool `(bits,)`, by user id; left out where the registry is printed.
        fingerprint: id of the fingerprint that the keys are for; empty for keys that may be used with any.
        generator_name: of that fingerprint, for people.
    """

    bits: int
    users: dict[str, Tensor] = field(default_factory=dict, repr=False)
    fingerprint: str = ""
    generator_name: str = ""
    _owners: dict[str, str] = field(default_factory=dict, init=False, repr=False, compare=False)  # user by key's text

    @property
    def keys(self) -> Tensor:
        """All keys, bool `(n, bits)`."""
        return torch.stack(list(self.users.values())) if self.users else torch.zeros(0, self.bits, dtype=torch.bool)

    @property
    def names(self) -> list[str]:
        """The user ids, in the order of `keys`."""
        return list(self.users)

    def create(self, user: str, minimum_distance: int = 0) -> None:
        """Register a user with a new random key.

        Args:
            user: id of the user.
            minimum_distance: bits in which the key must differ from every other, so that users cannot be confused.

        Raises:
            FingerprintError: a user of that id is registered, or no such key can be found.
        """
        self._check_new(user)
        try:
            self.users[user] = new_key(self.keys, self.bits, minimum_distance)
        except ValueError as error:
            raise FingerprintError(f"user {user!r}: {error}") from error

    def add(self, user: str, key: str) -> None:
        """Register a user with a key of their own, as hexadecimal or as 0s and 1s.

        Raises:
            FingerprintError: a user of that id or with that key is registered, or it is no key of this length.
        """
        self._check_new(user)
        try:
            bits = key_from_text(key, self.bits)
        except ValueError as error:
            raise FingerprintError(f"user {user!r}: {error}") from error
        if (other := self.owner_of(bits)) is not None:
            raise FingerprintError(f"user {user!r}: found the key of user {other!r}, expected one of their own")
        self.users[user] = bits
        self._owners[key_to_text(bits)] = user

    def key_of(self, user: str) -> Tensor:
        """Key of a user, bool `(bits,)`.

        Raises:
            FingerprintError: no such user.
        """
        if user not in self.users:
            known = ", ".join(self.names[:8]) + (", ..." if len(self.users) > 8 else "")
            raise FingerprintError(f"found no user {user!r} among {len(self.users)} ({known}); register them first")
        return self.users[user]

    def owner_of(self, key: Tensor) -> str | None:
        """The user who holds a key, bool `(bits,)`, or None."""
        if len(self._owners) != len(self.users):
            self._owners = {key_to_text(taken): user for user, taken in self.users.items()}
        return self._owners.get(key_to_text(key))

    def _check_new(self, user: str) -> None:
        if not is_user_id(user):
            raise FingerprintError(f"found user id {user!r}, expected a printable name without spaces around it")
        if user in self.users:
            raise FingerprintError(
                f"found user {user!r} registered already; keys are never replaced, choose another id"
            )


def is_user_id(name: str) -> bool:
    """Whether a name can be registered: printable, on one line, no spaces around it."""
    return bool(name) and name == name.strip() and name.isprintable()


def write_registry(registry: Registry, path: Path) -> None:
    """Write a registry, atomically, readable by its owner only."""
    content = {
        "format": FORMAT,
        "version": VERSION,
        "bits": registry.bits,
        "fingerprint": registry.fingerprint,
        "generator_name": registry.generator_name,
        "users": {user: key_to_text(key) for user, key in registry.users.items()},
    }
    replace_file(path, (json.dumps(content, indent=1) + "\n").encode(), private=True)


def read_registry(path: Path, fingerprint: Fingerprint | None = None) -> Registry:
    """Read a registry.

    Args:
        path: file that `write_registry` wrote.
        fingerprint: what it is to be used with; None does not check.

    Raises:
        FingerprintError: no such file, damaged, keys of another length or for another fingerprint, or a file that
            others can read.
    """
    if not path.is_file():
        raise FingerprintError(f"found no registry {path}; register a user first")
    if path.stat().st_mode & (stat.S_IRWXG | stat.S_IRWXO):
        raise FingerprintError(f"{path}: others can read these keys; make the file yours alone: chmod 600 {path}")
    try:
        content = json.loads(path.read_text())
        if content["format"] != FORMAT or content["version"] != VERSION:
            raise FingerprintError(f"{path.name}: found no registry of version {VERSION}")
        registry = Registry(
            int(content["bits"]), fingerprint=content["fingerprint"], generator_name=content["generator_name"]
        )
        for user, text in content["users"].items():
            registry.add(user, text)
    except FingerprintError:
        raise
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise FingerprintError(f"{path.name}: found a damaged registry ({type(error).__name__}); restore it") from error
    if fingerprint is not None:
        _check_fits(registry, fingerprint, path)
    return registry


def _check_fits(registry: Registry, fingerprint: Fingerprint, path: Path) -> None:
    """Keys for another fingerprint would be set and searched for without a word, and never be found."""
    if registry.bits != fingerprint.bits:
        raise FingerprintError(
            f"{path}: found keys of {registry.bits} bits, expected {fingerprint.bits} as the fingerprint has; a "
            "registry belongs to one fingerprint"
        )
    if registry.fingerprint not in ("", fingerprint.id):
        raise FingerprintError(
            f"{path}: found keys for the fingerprint {registry.fingerprint[:12]} of {registry.generator_name}, "
            f"expected those for {fingerprint.id[:12]} of {fingerprint.generator_name}; name that one's registry, or "
            "begin another with `python -m lightning_modules.fingerprints.users create FILE NAME --fingerprint ...`"
        )


@contextmanager
def changing_registry(path: Path, fingerprint: Fingerprint | None = None) -> Iterator[Registry]:
    """Read a registry, let the caller change it, write it; nothing is written if the caller fails.

    Processes that change one registry at once take turns, so that none overwrites what another added: the whole change
    is made under a lock on the file `.<name>.lock` beside it. The system frees that lock when its holder ends, however
    it ends; the empty file stays.

    Args:
        path: the registry.
        fingerprint: what its keys are for, and what a registry that is not there yet is begun for.

    Raises:
        FingerprintError: as `read_registry`; no such folder; or no registry and no fingerprint to begin one for.
    """
    path = path.resolve()
    if not path.parent.is_dir():
        raise FingerprintError(f"found no folder {path.parent} for the registry {path.name}; make it first")
    check_file(path, "the registry's path")
    if fingerprint is None and not path.exists():
        raise FingerprintError(
            f"found no registry {path}; check the name, or begin one for a fingerprint with --fingerprint FILE"
        )
    with os.fdopen(os.open(path.with_name(f".{path.name}.lock"), os.O_RDWR | os.O_CREAT, 0o600), "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if fingerprint is not None and not path.exists():
            registry = Registry(fingerprint.bits, {}, fingerprint.id, fingerprint.generator_name)
        else:
            registry = read_registry(path, fingerprint)
        yield registry
        write_registry(registry, path)

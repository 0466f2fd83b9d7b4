"""The registry of users: who holds which key. Keys are secrets: the file is its owner's alone, nothing is logged."""

from __future__ import annotations

import hashlib
import json
import shlex
import stat
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock
from torch import Tensor

from lightning_modules.common.files import check_file, remove_partials, write_bytes
from lightning_modules.common.shipped import program
from lightning_modules.fingerprints.fingerprint import Fingerprint, FingerprintError
from lightning_modules.fingerprints.users.keys import (
    Packed,
    new_key,
    packed_bytes,
    packed_key,
    unpack_key,
    unpack_keys,
)
from lightning_modules.fingerprints.users.names import NameIndex, is_user_id, shown_name, written_form

FORMAT = "manifold-fingerprints registry"
VERSION = 3
WITHOUT_CHECKSUM = 2  # the version before, which goes on being read
NO_REGISTRY = "found a file that is no registry of users"
SHOWN_NAMES = 8


@dataclass
class KeyRegistry:
    """Users and their keys, in order of registration."""

    bits: int  # length of a key
    users: dict[str, bytes] = field(default_factory=dict, repr=False)  # packed key by user id; never printed
    fingerprint: str = ""  # id of the one that the keys are for; empty for keys that may be used with any
    generator_name: str = ""  # of that fingerprint, for people
    home: str = field(default="", compare=False)  # folder where that fingerprint was last seen; its bank lies there
    sealed: bool = field(default=True, init=False, repr=False, compare=False)  # whether its file had a checksum
    _owners: dict[bytes, str] = field(default_factory=dict, init=False, repr=False, compare=False)  # user by key
    _names: NameIndex = field(default_factory=NameIndex, init=False, repr=False, compare=False)
    _table: Packed = field(init=False, repr=False, compare=False)  # the keys, with room for more at its end
    _filled: int = field(default=0, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        self._table = np.zeros((0, packed_bytes(self.bits)), dtype=np.uint8)

    @property
    def packed(self) -> Packed:
        """All keys, packed, uint8 `(n, ceil(bits / 8))`, in the order of `names`."""
        if missing := len(self.users) - self._filled:
            later = [*islice(reversed(self.users.values()), missing)][::-1]
            new = np.frombuffer(b"".join(later), dtype=np.uint8).reshape(missing, -1)
            if len(self.users) > len(self._table):  # doubled, so that adding users one by one stays linear
                room = np.zeros((2 * len(self.users), self._table.shape[1]), dtype=np.uint8)
                room[: self._filled] = self._table[: self._filled]
                self._table = room
            self._table[self._filled : len(self.users)] = new
            self._filled = len(self.users)
        return self._table[: self._filled]

    @property
    def keys(self) -> Tensor:
        """All keys, bool `(n, bits)`."""
        return unpack_keys(self.packed, self.bits)

    @property
    def names(self) -> list[str]:
        """The user ids, in the order of `packed`."""
        return list(self.users)

    def create(self, user: str, minimum_distance: int = 0, draws: Iterator[bytes] | None = None) -> None:
        """Register a user, whose id is kept in Unicode's NFC, with a new random key.

        So many bits at least are to differ from every other key, so that users cannot be confused. More than one costs
        a comparison with all keys. Random keys come from `draws` where it is given (`key_checks.KeyCheck.draws`).

        Raises:
            FingerprintError: a user of that id or of one that looks like it is registered, or no such key can be found.
        """
        user = self._new_name(user)
        table = self.packed if minimum_distance > 1 else self._table[:0]
        try:
            key = new_key(self._by_key(), table, self.bits, minimum_distance, draws)
        except ValueError as error:
            raise FingerprintError(f"user {user!r}: {error}") from error
        self.take(user, key)

    def add(self, user: str, key: str) -> None:
        """Register a user with a key of their own, as hexadecimal or as 0s and 1s.

        Raises:
            FingerprintError: a user of that id, of one that looks like it or with that key is registered, or it is no
                key of this length.
        """
        self.add_known(self._new_name(user), key)

    def find(self, user: str) -> str | None:
        """The registered id that a name means, whatever its capitals, blanks and Unicode form; None if there is none.

        A name that only looks like a registered one, with letters of another alphabet, is not that user.
        """
        return user if user in self.users else self._index().same(user)

    def key_of(self, user: str) -> Tensor:
        """Key of a user, bool `(bits,)`, found as by `find`.

        Raises:
            FingerprintError: no such user.
        """
        found = self.find(user)
        if found is None:
            alike = self.alike(user)
            hint = "register them first" if alike is None else f"did you mean {alike!r}?"
            raise FingerprintError(
                f"found no user {shown_name(user)} among {len(self.users)} ({listed(self.names)}); {hint}"
            )
        return unpack_key(self.users[found], self.bits)

    def owner_of(self, key: bytes) -> str | None:
        """The user who holds a packed key, or None."""
        return self._by_key().get(key)

    def alike(self, user: str) -> str | None:
        """A registered id that a name can be taken for, or None."""
        return self._index().alike(user)

    def add_known(self, user: str, key: str) -> None:
        """Take over a user of another registry, whatever their id looks like.

        Raises:
            FingerprintError: a user with that key is registered, or it is no key of this length.
        """
        try:
            packed = packed_key(key, self.bits)
        except ValueError as error:
            raise FingerprintError(f"user {user!r}: {error}") from error
        if (other := self._by_key().get(packed)) is not None:
            raise FingerprintError(f"user {user!r}: found the key of user {other!r}, expected one of their own")
        self.take(user, packed)

    def take(self, user: str, key: bytes) -> None:
        """Register a user with a packed key, both of which are known to be free and well-formed."""
        owners, names = self._by_key(), self._index()  # both up to date before the user is added
        self.users[user], owners[key] = key, user
        names.add(user)

    def _by_key(self) -> dict[bytes, str]:
        if len(self._owners) != len(self.users):
            self._owners = {taken: user for user, taken in self.users.items()}
        return self._owners

    def _index(self) -> NameIndex:
        if len(self._names) != len(self.users):
            self._names = NameIndex()
            for user in self.users:
                self._names.add(user)
        return self._names

    def _new_name(self, user: str) -> str:
        """The form in which a new id is kept."""
        if not is_user_id(user):
            raise FingerprintError(f"found user id {user!r}, expected a printable name without spaces around it")
        user = written_form(user)
        if user in self.users:
            raise FingerprintError(
                f"found user {user!r} registered already; keys are never replaced, choose another id"
            )
        if (other := self.alike(user)) is not None:
            raise FingerprintError(
                f"found user {shown_name(user)}, which can be taken for the registered {shown_name(other)}; expected "
                "ids that differ in more than capitals, blanks, invisible characters and letters of other alphabets "
                "that are drawn alike: choose another id"
            )
        return user


def write_registry(registry: KeyRegistry, path: Path) -> None:
    """Write a registry with its checksum, atomically, readable by its owner only."""
    content = {
        "format": FORMAT,
        "version": VERSION,
        "bits": registry.bits,
        "fingerprint": registry.fingerprint,
        "generator_name": registry.generator_name,
        "users": {user: key.hex() for user, key in registry.users.items()},
    }
    if registry.home:
        content["fingerprint_folder"] = registry.home
    content["checksum"] = _checksum(content)
    write_bytes(path, (json.dumps(content, indent=1) + "\n").encode(), private=True)


def _checksum(content: dict[str, Any]) -> str:
    """BLAKE2b-128, hex, over all values of a registry's file but this one, however they are laid out.

    It finds accidents, not forgers: whoever can write the file can write a checksum. Whoever has it can try short keys,
    so it is as secret as they are and stands in no message.
    """
    rest = {name: value for name, value in content.items() if name != "checksum"}
    return hashlib.blake2b(json.dumps(rest, sort_keys=True).encode(), digest_size=16).hexdigest()


def read_registry(path: Path, fingerprint: Fingerprint | None = None) -> KeyRegistry:
    """Read a registry, to be used with a fingerprint where one is given; what is odd but harmless is warned of.

    Raises:
        FingerprintError: no such file, damaged or changed since it was written, a name in it twice, keys of another
            length or for another fingerprint, or a file that others can read.
    """
    registry = _read(path, fingerprint)
    if not registry.sealed:
        warnings.warn(
            f"{path}: found no checksum, so damage to a key goes unnoticed; its next change adds one, and so does "
            f"`{program('users')} reseal {shlex.quote(str(path))}`",
            stacklevel=2,
        )
    return registry


def _read(path: Path, fingerprint: Fingerprint | None = None, check: bool = True) -> KeyRegistry:
    """A registry; `check` compares the checksum."""
    if not path.is_file():
        raise FingerprintError(f"found no registry {path}; register a user first")
    try:
        content = json.loads(path.read_text(encoding="utf-8"), object_pairs_hook=_each_name_once)
        if not isinstance(content, dict) or "format" not in content:
            raise FingerprintError("found JSON that is no registry of users; check the name")
        if path.stat().st_mode & (stat.S_IRWXG | stat.S_IRWXO):
            raise FingerprintError(f"others can read these keys; make the file yours alone: chmod 600 {path}")
        registry = _parse(content, path, check)
    except FingerprintError as error:
        raise FingerprintError(f"{path}: {error}") from error
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise FingerprintError(
            f"{path}: {NO_REGISTRY}, or a damaged one ({error}); check the name, or restore it"
        ) from error
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise FingerprintError(f"{path}: found a damaged registry ({type(error).__name__}); restore it") from error
    # keys for another fingerprint would be set and searched for without a word, and never be found
    if fingerprint is not None and registry.bits != fingerprint.bits:
        raise FingerprintError(
            f"{path}: found keys of {registry.bits} bits, expected {fingerprint.bits} as the fingerprint has; a "
            "registry belongs to one fingerprint"
        )
    if fingerprint is not None and registry.fingerprint not in ("", fingerprint.id):
        raise FingerprintError(
            f"{path}: found keys for the fingerprint {registry.fingerprint[:12]} of {registry.generator_name}, "
            f"expected those for {fingerprint.id[:12]} of {fingerprint.generator_name}; name that one's registry, or "
            f"begin another with `{program('users')} create FILE NAME --fingerprint ...`"
        )
    return registry


def _parse(content: dict[str, Any], path: Path, check: bool) -> KeyRegistry:
    if content["format"] != FORMAT or content["version"] not in (VERSION, WITHOUT_CHECKSUM):
        raise FingerprintError(f"found no registry of version {VERSION} or {WITHOUT_CHECKSUM}")
    sealed = content["version"] == VERSION or "checksum" in content
    if check and sealed and content.get("checksum") != _checksum(content):
        raise FingerprintError(
            "found a registry that was changed or damaged since it was written: its checksum does not fit; restore it "
            "from a copy, or, where you changed it yourself and have made sure of every name and key, run "
            f"`{program('users')} reseal {shlex.quote(str(path))}`"
        )
    registry = KeyRegistry(int(content["bits"]), {}, content["fingerprint"], content["generator_name"])
    registry.home = str(content.get("fingerprint_folder", ""))
    registry.sealed = sealed
    pairs = []
    for user, text in content["users"].items():
        if not is_user_id(user):
            raise FingerprintError(f"found user id {user!r}, expected a printable name without spaces around it")
        if (other := registry.alike(user)) is not None:
            pairs.append(f"{shown_name(other)} and {shown_name(user)}")
        registry.add_known(user, text)
    if pairs:
        warnings.warn(
            f"{path}: found {len(pairs)} users who can be taken for another: {listed(pairs)}; their keys stay as they "
            "are, but such a name is registered no more",
            stacklevel=4,
        )
    return registry


def listed(items: Sequence[str]) -> str:
    """The first few of many, in one line."""
    return ", ".join(items[:SHOWN_NAMES]) + (", ..." if len(items) > SHOWN_NAMES else "")


def _each_name_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object whose names differ; json itself keeps the last of two equal ones without a word."""
    found = dict(pairs)
    if len(found) < len(pairs):
        twice = [repr(name) for name, count in Counter(name for name, _ in pairs).items() if count > 1]
        raise FingerprintError(
            f"found {listed(twice)} more than once, and only the last key of a user would count; expected each name "
            f"once: restore the files that were put together here and join them with `{program('users')} merge A B "
            "--out C`"
        )
    return found


def _refuse_other_kinds(path: Path) -> None:
    """Refuse a file that is no JSON object, without reading a large registry."""
    if path.is_file():
        with path.open("rb") as file:
            if not file.read(64).lstrip().startswith(b"{"):
                raise FingerprintError(f"{path}: {NO_REGISTRY}; check the name")


@contextmanager
def changing_registry(path: Path, fingerprint: Fingerprint | None = None, check: bool = True) -> Iterator[KeyRegistry]:
    """Read a registry, let the caller change it, write it; nothing is written if the caller fails.

    Processes that change one registry at once take turns, so that none overwrites what another added: the whole change
    is made under a lock on the file `.<name>.lock` beside it. The system frees that lock when its holder ends, however
    it ends; the empty file stays. A registry that is not there yet is begun for the fingerprint. Without `check` its
    checksum need not fit, and it gets a new one.

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
    _refuse_other_kinds(path)  # they get no lock beside them
    with FileLock(path.with_name(f".{path.name}.lock"), mode=0o600):
        remove_partials(path.parent, path.name)
        if fingerprint is not None and not path.exists():
            registry = KeyRegistry(fingerprint.bits, {}, fingerprint.id, fingerprint.generator_name)
        else:
            registry = _read(path, fingerprint, check)
        yield registry
        write_registry(registry, path)
        if not registry.sealed:
            warnings.warn(f"{path}: had no checksum; it has one now", stacklevel=3)

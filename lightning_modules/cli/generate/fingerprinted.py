"""The generator of one user: what `evaluate.py generate` makes of the keys `fingerprint`, `user` and `registry`."""

from __future__ import annotations

import difflib
import shlex
from pathlib import Path
from typing import Any

from torch import Tensor

from lightning_modules.common.shipped import program
from lightning_modules.common.weights import content_hash
from lightning_modules.fingerprints.fingerprint import Fingerprint, find_fingerprint, read_fingerprint
from lightning_modules.fingerprints.marked_images import MarkedGenerator, take_noise
from lightning_modules.fingerprints.users.key_registry import read_registry
from lightning_modules.fingerprints.users.names import shown_name
from lightning_modules.generators.bundled.load import load_named


def load_marked(
    fingerprint: str | None,
    user: str | None,
    registry: str,
    generator: str | None = None,
    kind: str = "auto",
    options: dict[str, Any] | None = None,
) -> MarkedGenerator:
    """Load a generator that puts a user's key into its images; arguments as of `command.write_fingerprinted_images`.

    Raises:
        ValueError: no fingerprint or user given, a file that is missing or cannot be used, a registry of keys for
            another fingerprint, an unknown user, or a generator that the fingerprint does not belong to.
    """
    path = _fingerprint_file(fingerprint)
    found = read_fingerprint(path)
    user, key = _user_and_key(user, registry, path, found)
    given = options or {}
    carrier = _carrier(found, generator, kind, given)
    read_fingerprint(path, content_hash(carrier.state_dict()))  # refuses another generator by name
    if missing := {name: value for name, value in found.sampling.items() if name not in given}:
        carrier.configure(**missing)
    take_noise(carrier, found, given)
    return MarkedGenerator(carrier, found, key, user)


def _fingerprint_file(name: str | None) -> Path:
    if name is None:
        raise ValueError(
            "found `user` or `registry` but no `fingerprint`, which says where keys lie; give --fingerprint FILE, "
            "the run folder that holds it, or the name of one that ships"
        )
    return find_fingerprint(name)


def _user_and_key(user: str | None, registry: str, fingerprint: Path, carried: Fingerprint) -> tuple[str, Tensor]:
    path, file, command = Path(registry), shlex.quote(registry), program("users")
    create = f"`{command} create {file} {shlex.quote(user or 'NAME')}"
    begin = f"{create} --fingerprint {shlex.quote(str(fingerprint))}`"
    if user is None:
        those = f"`{command} list {file}` lists those there are" if path.is_file() else f"{begin} registers one"
        raise ValueError(
            f"found a fingerprint but no user, expected the one whose key the images are to carry: give --user NAME; "
            f"{those}"
        )
    if not path.is_file():
        raise ValueError(
            f"found no registry {path}, expected a file of users and keys; name it with --registry, or create it with "
            f"{begin}"
        )
    users = read_registry(path, carried)
    registered = users.find(user)
    if registered is None:
        unknown = f"found no user {shown_name(user)} among the {len(users.users)} of {path}"
        if (alike := users.alike(user)) is not None:
            raise ValueError(f"{unknown}; did you mean {alike!r}, which looks like it?")
        near = difflib.get_close_matches(user, users.names, n=3)
        hint = f"did you mean {' or '.join(map(repr, near))}?" if near else f"`{command} list {file}` lists them;"
        raise ValueError(f"{unknown}; {hint} {create}` registers a new one")
    return registered, users.key_of(registered)


def _carrier(fingerprint: Fingerprint, generator: str | None, kind: str, options: dict[str, Any]) -> Any:
    try:
        return load_named(fingerprint.generator_name if generator is None else generator, kind, options)
    except ValueError as error:
        if generator is not None:
            raise
        raise ValueError(f"{error} (the generator that the fingerprint names; --generator names another)") from error

"""Register users and their keys, join registries, write them as tables: what `evaluate.py users` does.

Keys are secrets: registries and exported tables can be read by their owner alone, and a key once given to a user is
never replaced. A registry holds a checksum: one that was changed by hand or damaged is refused, until it is restored
or, after a change that was meant, sealed anew. Several processes may register users at once: they take turns by a lock
on `.<registry>.lock`.
"""

from __future__ import annotations

import csv
import io
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path

from lightning_modules.common.files import write_bytes
from lightning_modules.common.shipped import program
from lightning_modules.fingerprints.fingerprint import (
    Fingerprint,
    FingerprintError,
    find_fingerprint,
    read_fingerprint,
)
from lightning_modules.fingerprints.unmarked_bank import FILE_NAME, UnmarkedBank
from lightning_modules.fingerprints.users.key_checks import RATE, KeyCheck, Near, find_bank
from lightning_modules.fingerprints.users.key_registry import (
    KeyRegistry,
    changing_registry,
    listed,
    read_registry,
    write_registry,
)
from lightning_modules.fingerprints.users.keys import key_check, packed_key
from lightning_modules.fingerprints.users.names import is_user_id, shown_name, written_form
from lightning_modules.metrics.evidence import most_users

HEADERS = (["user", "key"], ["user", "key", "check"])


def create_users(
    path: Path, names: Sequence[str], fingerprint: Path | None = None, minimum_distance: int = 0
) -> KeyRegistry:
    """Register users with new random keys: all of them, or none.

    A key is drawn again where images without it would be attributed to it (`key_checks`).

    Args:
        path: the registry; begun if it is not there.
        names: ids of the users.
        fingerprint: what the keys are for, a file or a folder that holds one; a new registry needs it.
        minimum_distance: bits in which each new key must differ from every other key.

    Raises:
        FingerprintError: a user who is registered, no such key, or a registry or fingerprint that cannot be used.
    """
    with changing_registry(path, _read(fingerprint)) as registry:
        bank = _bank(registry, fingerprint)
        if not 0 <= minimum_distance <= registry.bits:
            raise FingerprintError(
                f"found a minimum distance of {minimum_distance}, expected 0 to {registry.bits}, the bits of a key"
            )
        draws = KeyCheck(registry.bits, bank, len(registry.users) + len(names)).draws(len(names))
        for name in names:
            registry.create(name, minimum_distance, draws)
    return registry


def read_names(file: Path) -> list[str]:
    """The ids in a text file in UTF-8, one a line; empty lines are passed over.

    Raises:
        FingerprintError: no such file, or no text.
    """
    if not file.is_file():
        raise FingerprintError(f"found no file {file}, expected a text file of user ids, one a line")
    try:
        text = file.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        raise FingerprintError(f"{file.name}: found no text in UTF-8, expected one user id a line") from None
    return [name for line in text.split("\n") if (name := line.strip())]


def capacity(registry: KeyRegistry) -> str:
    """How many users keys of a registry's length can tell apart, in words."""
    most = most_users(registry.bits, RATE)
    whom = f"tell at most {most:,} users apart" if most else "can name nobody"
    return (
        f"keys of {registry.bits} bits {whom} at a false-positive rate of {RATE:g}, where an image gives all bits; a "
        "decoder that errs needs longer keys for as many"
    )


def import_users(path: Path, table: Path, fingerprint: Path | None = None) -> KeyRegistry:
    """Register the users of a table with the keys it gives them: all of them, or none.

    Nobody is registered with a key that images without it would be attributed to (`key_checks`). Users who are
    registered keep such a key, with a warning.

    Args:
        path: the registry; begun for the fingerprint if it is not there.
        table: CSV file in UTF-8 of lines `user,key`, the key as hexadecimal or as 0s and 1s, or `user,key,check` as
            `export_users` writes them; empty lines and a first line that names the columns are passed over.
        fingerprint: file of the fingerprint that the keys are for.

    Raises:
        FingerprintError: bad lines, all of them named by number and none repeated, since they hold keys; or a registry
            or fingerprint that cannot be used.
    """
    lines = list(_lines(table))
    if not lines:
        raise FingerprintError(f"{table.name}: found no user, expected lines of user,key")
    with changing_registry(path, _read(fingerprint)) as registry:
        bank, before = _bank(registry, fingerprint), len(registry.users)
        lines_of: dict[str, int] = {}  # of the users whom the table has brought so far
        problems = []
        for number, fields in lines:
            if problem := _problem(registry, fields, lines_of):
                problems.append(f"  line {number}: {problem}")
            else:
                user = written_form(fields[0])
                registry.take(user, packed_key(fields[1], registry.bits))
                lines_of[user] = number
        if problems:
            raise FingerprintError(
                f"{table.name}: found {len(problems)} bad of {len(lines)} lines, so nobody was registered; expected "
                f"user,key of users who are not registered yet, a key of {registry.bits} bits as 0s and 1s or as "
                "hexadecimal\n" + "\n".join(problems)
            )
        refused = KeyCheck(registry.bits, bank, len(registry.users)).refused(registry.packed)
        names = registry.names
        if easy := [near for near in refused if near.key >= before]:
            told = [f"  line {lines_of[names[near.key]]}: {_easy_key(names[near.key], near)}" for near in easy]
            raise FingerprintError(
                f"{table.name}: found {len(easy)} key{'s' if len(easy) > 1 else ''} that decoded images without any "
                "key come near, so nobody was registered; expected keys drawn at random, which images without key "
                "match by chance alone: let "
                f"`{program('users')} create` draw other keys for these users\n" + "\n".join(told)
            )
        _warn_of_easy_keys(path, [names[near.key] for near in refused])
    return registry


def merge_users(paths: Sequence[Path], out: Path) -> KeyRegistry:
    """Join at least two registries of one fingerprint into a new file: all their users, or nothing.

    A user who stands in several with one key is taken once. Keys that images without them would be attributed to stay,
    with a warning, since they may be in images.

    Raises:
        FingerprintError: registries of different fingerprints; a user with two keys, users of different registries who
            can be taken for each other or hold one key, all of them named; or a file that cannot be used.
    """
    _refuse_existing(out)
    parts = {path: read_registry(path) for path in paths}
    if len(parts) < 2:
        raise FingerprintError(f"found {len(parts)} registry to merge, expected at least two different ones")
    first, begun = paths[0], parts[paths[0]]
    merged = KeyRegistry(begun.bits, {}, begun.fingerprint, begun.generator_name)
    merged.home = next((part.home for part in parts.values() if part.home), "")
    came_from: dict[str, Path] = {}
    problems = []
    for path, part in parts.items():
        if (part.bits, part.fingerprint) != (merged.bits, merged.fingerprint):
            raise FingerprintError(
                f"found {first} for {_belongs(begun)} and {path} for {_belongs(part)}; expected registries of one "
                "fingerprint: keep them apart"
            )
        for user, key in part.users.items():
            taken = merged.find(user)
            if taken is not None and merged.users[taken] == key:
                continue
            if problem := _conflict(merged, came_from, path, user, key):
                problems.append(f"  {problem}")
            else:
                merged.add_known(user, key.hex())
                came_from[user] = path
    if problems:
        raise FingerprintError(
            f"found {len(problems)} users who cannot be joined, so {out} was not written; expected each user with one "
            f"key. Both keys may be in images: give one of the two another id in its file, then "
            f"`{program('users')} reseal` it\n" + "\n".join(problems)
        )
    write_registry(merged, out)
    refused = KeyCheck(merged.bits, _bank(merged), len(merged.users)).refused(merged.packed)
    names = merged.names
    _warn_of_easy_keys(out, [names[near.key] for near in refused])
    return merged


def _conflict(merged: KeyRegistry, came_from: dict[str, Path], path: Path, user: str, key: bytes) -> str:
    """Why a user of `path` cannot be joined; empty for one who can."""
    if user in merged.users:
        return f"user {user!r} has one key in {came_from[user]} and another in {path}"
    alike = merged.alike(user)
    if alike is not None and came_from[alike] != path:  # two of one registry stand side by side there already
        both = f"{shown_name(alike)} of {came_from[alike]} and {shown_name(user)} of {path}"
        return f"users {both} can be taken for each other"
    owner = merged.owner_of(key)
    return "" if owner is None else f"users {owner!r} of {came_from[owner]} and {user!r} of {path} hold one key"


def export_users(path: Path, table: Path) -> KeyRegistry:
    """Write all users and keys as a new CSV file that `import_users` reads, for its owner alone.

    Its column `check` tells whether a line that is typed or copied is right.

    Raises:
        FingerprintError: the table is there already, or a registry that cannot be used.
    """
    _refuse_existing(table)
    registry = read_registry(path)
    text = io.StringIO()
    lines = csv.writer(text, lineterminator="\n")
    lines.writerow(HEADERS[1])
    for user, key in registry.users.items():
        lines.writerow([user, key.hex(), key_check(written_form(user), key)])
    write_bytes(table, text.getvalue().encode(), private=True)
    return registry


def reseal_users(path: Path) -> KeyRegistry:
    """Take a registry as it is, whatever its checksum says, and give it a new one.

    Raises:
        FingerprintError: a registry that cannot be used for another reason.
    """
    with changing_registry(path, check=False) as registry:
        registry.sealed = True  # whatever it was: a person asked for the new checksum
    return registry


def missing_bank(registry: KeyRegistry) -> str | None:
    """What to tell where no bank of a registry's fingerprint is at hand: how one is made; None where there is one."""
    if _bank(registry) is not None:
        return None
    return (
        f"found no {FILE_NAME} beside the fingerprint, so keys are checked for nothing but zeros and ones alone; "
        f"`{program('users')} bank RUN` makes it from the run that trained the decoder"
    )


def _bank(registry: KeyRegistry, fingerprint: Path | None = None) -> UnmarkedBank | None:
    """The bank beside a fingerprint that was named, or where the registry's was last seen, or that ships.

    Raises:
        FingerprintError: the named folder has one that cannot be used.
    """
    if fingerprint is not None:
        registry.home = str(find_fingerprint(fingerprint).parent.resolve())
        return find_bank(registry.home, registry.fingerprint)
    try:
        return find_bank(registry.home, registry.fingerprint)
    except FingerprintError:  # of a folder that nobody named: it may be another run's by now
        return find_bank(None, registry.fingerprint)


def _easy_key(user: str, near: Near) -> str:
    """Why a key is refused. It is in no image yet, so what comes near it may be told."""
    if not near.image:
        return f"the key of user {user!r} is all zeros or all ones"
    return f"{near.image} would be named as {user!r} (p-value {near.p_value:.2g})"


def _warn_of_easy_keys(path: Path, users: Sequence[str]) -> None:
    """Name registered users, but no image: whoever decodes that would have their keys."""
    if users:
        warnings.warn(
            f"{path}: found {len(users)} registered users with keys that images without them speak for: "
            f"{listed(users)}; their keys stay as they are, but take care with verdicts that name them: an image "
            "that shows little may be attributed to them",
            stacklevel=3,
        )


def _refuse_existing(path: Path) -> None:
    if path.exists():
        raise FingerprintError(f"found {path} there already, and files with keys are never replaced; name a new one")
    if not path.parent.is_dir():
        raise FingerprintError(f"found no folder {path.parent} for {path.name}; make it first")


def _belongs(registry: KeyRegistry) -> str:
    whose = f"the fingerprint {registry.fingerprint[:12]} of {registry.generator_name}"
    return f"{whose if registry.fingerprint else 'any fingerprint'} with keys of {registry.bits} bits"


def _read(fingerprint: Path | None) -> Fingerprint | None:
    if fingerprint is None:
        return None
    return read_fingerprint(find_fingerprint(fingerprint))


def _lines(table: Path) -> Iterator[tuple[int, list[str]]]:
    """Line numbers and fields. Each line is read by itself: one bad quote does not swallow the lines after it."""
    if not table.is_file():
        raise FingerprintError(f"found no file {table}, expected a CSV file of lines user,key")
    try:
        text = table.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        raise FingerprintError(f"{table.name}: found no text in UTF-8, expected a CSV file of user,key") from None
    for number, line in enumerate(text.split("\n"), start=1):
        try:
            fields = [field.strip() for row in csv.reader([line], strict=True) for field in row]
        except csv.Error:
            yield number, []
            continue
        if any(fields) and not (number == 1 and [field.lower() for field in fields] in HEADERS):
            yield number, fields


def _problem(registry: KeyRegistry, fields: list[str], lines_of: dict[str, int]) -> str | None:
    """What is wrong with a line, without its text: whoever swaps the columns has a key where a name is expected."""
    if not 2 <= len(fields) <= 3:
        return f"found {len(fields)} fields, expected 2" if fields else "found a quotation mark that is not closed"
    user, key, check = written_form(fields[0]), fields[1], "".join(fields[2:])
    if not is_user_id(user):
        return "found no user id, expected a printable name"
    if user in lines_of:
        return f"found the user of line {lines_of[user]} again"
    if user in registry.users:
        return "found a user who is registered already; keys are never replaced"
    if (other := registry.alike(user)) is not None:
        whom = f"that of line {lines_of[other]}" if other in lines_of else "one who is registered already"
        return f"found a user who can be taken for {whom}, expected another id"
    try:
        packed = packed_key(key, registry.bits)
    except ValueError as error:
        return str(error)
    if check and check.lower() != key_check(user, packed):
        return "found user and key that do not fit the check beside them; one of the three was not copied rightly"
    if (owner := registry.owner_of(packed)) is not None:
        if owner in lines_of:
            return f"found the key of line {lines_of[owner]} again, expected one of their own"
        return "found the key of a user who is registered already, expected one of their own"
    return None

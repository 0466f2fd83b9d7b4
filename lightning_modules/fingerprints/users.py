"""Register users and their keys, list them, look one up.

python -m lightning_modules.fingerprints.users create users.json alice bob --fingerprint faces.safetensors
python -m lightning_modules.fingerprints.users import users.json keys.csv
python -m lightning_modules.fingerprints.users list users.json
python -m lightning_modules.fingerprints.users show users.json alice

Keys are secrets. Only `show` prints one; the registry can be read by its owner alone, and a key once given to a user is
never replaced. Several processes may register users at once: they take turns by a lock on `.<registry>.lock`.
"""

from __future__ import annotations

import argparse
import csv
import stat
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from lightning_modules.common.files import describe_place_error
from lightning_modules.common.shipped import find_trained, program
from lightning_modules.fingerprints.fingerprint import Fingerprint
from lightning_modules.fingerprints.fingerprint_file import FingerprintError, read_fingerprint
from lightning_modules.fingerprints.keys import key_from_text, key_to_text
from lightning_modules.fingerprints.registry import Registry, changing_registry, is_user_id, read_registry


def create_users(
    path: Path, names: Sequence[str], fingerprint: Path | None = None, minimum_distance: int = 0
) -> Registry:
    """Register users with new random keys: all of them, or none.

    Args:
        path: the registry; begun if it is not there.
        names: ids of the users.
        fingerprint: file of the fingerprint that the keys are for; a new registry needs it and belongs to it.
        minimum_distance: bits in which each new key must differ from every other key.

    Returns:
        The registry as written.

    Raises:
        FingerprintError: a user who is registered, no such key, or a registry or fingerprint that cannot be used.
    """
    with changing_registry(path, _read(fingerprint)) as registry:
        if not 0 <= minimum_distance <= registry.bits:
            raise FingerprintError(
                f"found a minimum distance of {minimum_distance}, expected 0 to {registry.bits}, the bits of a key"
            )
        for name in names:
            registry.create(name, minimum_distance)
    return registry


def import_users(path: Path, table: Path, fingerprint: Path | None = None) -> Registry:
    """Register the users of a table with the keys it gives them: all of them, or none.

    Args:
        path: the registry; begun if it is not there.
        table: CSV file in UTF-8 of lines `user,key`, the key as hexadecimal or as 0s and 1s; empty lines and a first
            line that reads `user,key` are passed over.
        fingerprint: file of the fingerprint that the keys are for; a new registry needs it and belongs to it.

    Returns:
        The registry as written.

    Raises:
        FingerprintError: bad lines, all of them named by number and none repeated, since they hold keys; or a registry
            or fingerprint that cannot be used.
    """
    lines = list(_lines(table))
    if not lines:
        raise FingerprintError(f"{table.name}: found no user, expected lines of user,key")
    with changing_registry(path, _read(fingerprint)) as registry:
        users: dict[str, int] = {}  # line by user, and by key
        keys: dict[str, int] = {}
        problems = []
        for number, fields in lines:
            problem = _problem(registry, fields, users, keys)
            if problem:
                problems.append(f"  line {number}: {problem}")
                continue
            user, key = fields
            users[user] = keys[key_to_text(key_from_text(key, registry.bits))] = number
        if problems:
            raise FingerprintError(
                f"{table.name}: found {len(problems)} bad of {len(lines)} lines, so nobody was registered; expected "
                f"user,key with a key of {registry.bits} bits as 0s and 1s or as hexadecimal\n" + "\n".join(problems)
            )
        for _, (user, key) in lines:
            registry.add(user, key)
    return registry


def _read(fingerprint: Path | None) -> Fingerprint | None:
    if fingerprint is None:
        return None
    path = Path(find_trained(str(fingerprint)))
    return read_fingerprint(path / "fingerprint.safetensors" if path.is_dir() else path)


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
            fields = []
            yield number, fields
            continue
        if any(fields) and not (number == 1 and [field.lower() for field in fields] == ["user", "key"]):
            yield number, fields


def _problem(registry: Registry, fields: list[str], users: dict[str, int], keys: dict[str, int]) -> str | None:
    """What is wrong with a line, without its text: whoever swaps the columns has a key where a name is expected."""
    if len(fields) != 2:
        return f"found {len(fields)} fields, expected 2" if fields else "found a quotation mark that is not closed"
    user, key = fields
    if not is_user_id(user):
        return "found no user id, expected a printable name"
    if user in registry.users:
        return "found a user who is registered already; keys are never replaced"
    if user in users:
        return f"found the user of line {users[user]} again"
    try:
        bits = key_from_text(key, registry.bits)
    except ValueError as error:
        return str(error)
    if registry.owner_of(bits) is not None:
        return "found the key of a user who is registered already, expected one of their own"
    if (line := keys.get(key_to_text(bits))) is not None:
        return f"found the key of line {line} again, expected one of their own"
    return None


def main(args: list[str] | None = None) -> None:
    """Run the command."""
    given = _parser().parse_args(args)
    try:
        if given.command == "create":
            registry = create_users(given.registry, given.names, given.fingerprint, given.minimum_distance)
            print(f"registered {_count(len(given.names))}; {given.registry.name} holds {_count(len(registry.users))}")
        elif given.command == "import":
            if given.table.is_file() and given.table.stat().st_mode & (stat.S_IRWXG | stat.S_IRWXO):
                sys.stderr.write(f"warning: others can read the keys in {given.table}: chmod 600, or remove it after\n")
            registry = import_users(given.registry, given.table, given.fingerprint)
            print(f"{given.registry.name} holds {_count(len(registry.users))}")
        elif given.command == "list":
            registry = read_registry(given.registry)
            print("".join(f"{name}\n" for name in registry.names), end="")
            known = f" for fingerprint {registry.fingerprint[:12]} of {registry.generator_name}"
            belongs = known if registry.fingerprint else ""
            sys.stderr.write(f"{_count(len(registry.users))}, keys of {registry.bits} bits{belongs}\n")
        else:
            key = key_to_text(read_registry(given.registry).key_of(given.name))
            sys.stderr.write("warning: this key is a secret; whoever knows it can put this user's key into images\n")
            print(key)
    except (FingerprintError, OSError) as error:
        sys.stderr.write(f"error: {describe_place_error(error) or error}\n")
        raise SystemExit(2) from None


def _count(users: int) -> str:
    return "1 user" if users == 1 else f"{users} users"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=program("users", "lightning_modules.fingerprints.users"),
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, about in (
        ("create", "register users with new random keys"),
        ("import", "register users with keys of their own"),
        ("list", "print the names of all users"),
        ("show", "print the key of one user"),
    ):
        command = commands.add_parser(name, help=about, description=about, allow_abbrev=False)
        command.add_argument("registry", type=Path, help="the registry's file")
        if name == "create":
            command.add_argument("names", nargs="+", metavar="name", help="ids of the users")
            command.add_argument(
                "--minimum_distance", type=int, default=0, metavar="BITS", help="bits in which keys must differ"
            )
        if name == "import":
            command.add_argument("table", type=Path, help="CSV file of lines user,key")
        if name in ("create", "import"):
            command.add_argument(
                "--fingerprint", type=Path, metavar="FILE", help="the fingerprint; needed to begin a registry"
            )
        if name == "show":
            command.add_argument("name", help="id of the user")
    return parser


if __name__ == "__main__":
    main()

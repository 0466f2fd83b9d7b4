"""`evaluate.py users`: register users and their keys, list them, look one up, join registries, write them as tables.

Only the parser lives here, so that help and mistakes answer at once; the work is in `fingerprints/users`.
"""

from __future__ import annotations

import argparse
import stat
import sys
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

from lightning_modules.cli.parser import CommandParser
from lightning_modules.common.files import describe_place_error
from lightning_modules.common.shipped import program

if TYPE_CHECKING:
    from lightning_modules.fingerprints.users.key_registry import KeyRegistry

DESCRIPTION = """Register users and their keys, list them, look one up, join registries, write them as tables.

{program} create users.json alice bob --fingerprint faces.safetensors
{program} import users.json keys.csv
{program} show users.json alice
{program} merge office-a.json office-b.json --out users.json

{program} bank runs/fingerprint/stylegan2/RUN

Keys are secrets. Only `show` prints one; registries and exported tables can be read by their owner alone, and a key
once given to a user is never replaced."""
COMMANDS = {
    "create": "register users with new random keys",
    "import": "register users with keys of their own",
    "list": "print the names of all users",
    "show": "print the key of one user",
    "merge": "join registries of one fingerprint into a new one",
    "export": "write all users and keys as a table that `import` reads",
    "reseal": "give a registry that was changed by hand, on purpose, a new checksum",
    "bank": "decode images without key by a run's decoder: keys that come near them are refused from then on",
}


def users(args: list[str]) -> None:
    """Run the command."""
    given = _parser().parse_args(args)
    from lightning_modules.fingerprints.fingerprint import FingerprintError

    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.showwarning = lambda message, *_where, **_how: _tell(f"warning: {message}")
        try:
            _run(given)
        except (FingerprintError, OSError) as error:
            _tell(f"error: {describe_place_error(error) or error}")
            raise SystemExit(2) from None


def _run(given: argparse.Namespace) -> None:
    from lightning_modules.fingerprints.fingerprint import FingerprintError
    from lightning_modules.fingerprints.users import manage
    from lightning_modules.fingerprints.users.key_registry import read_registry
    from lightning_modules.fingerprints.users.keys import key_to_text

    if given.command == "create":
        names = [*given.names, *([] if given.names_file is None else manage.read_names(given.names_file))]
        if not names:
            raise FingerprintError(
                "found no user to register, expected names, or a file of them with --names_file FILE"
            )
        begun = not given.registry.exists()
        registry = manage.create_users(given.registry, names, given.fingerprint, given.minimum_distance)
        print(f"registered {counted(len(names))}; {given.registry.name} holds {counted(len(registry.users))}")
        print(manage.capacity(registry))
        _tell_of_no_bank(registry, begun)
        _warn_of_capacity(registry)
    elif given.command == "import":
        if given.table.is_file() and given.table.stat().st_mode & (stat.S_IRWXG | stat.S_IRWXO):
            _tell(f"warning: others can read the keys in {given.table}: chmod 600, or remove it after")
        begun = not given.registry.exists()
        registry = manage.import_users(given.registry, given.table, given.fingerprint)
        print(f"{given.registry.name} holds {counted(len(registry.users))}")
        _tell_of_no_bank(registry, begun)
        _warn_of_capacity(registry)
    elif given.command == "merge":
        registry = manage.merge_users(given.registry, given.out)
        print(f"{given.out.name} holds {counted(len(registry.users))}")
        _warn_of_capacity(registry)
    elif given.command == "export":
        registry = manage.export_users(given.registry, given.table)
        _tell(f"warning: {given.table} holds keys, which are secrets; remove it when it has served")
        print(f"wrote {counted(len(registry.users))} to {given.table.name}")
    elif given.command == "reseal":
        registry = manage.reseal_users(given.registry)
        print(f"{given.registry.name} has a new checksum, for {counted(len(registry.users))} as they stand there")
    elif given.command == "bank":
        _make_bank(given.run, given.images)
    elif given.command == "list":
        registry = read_registry(given.registry)
        print("".join(f"{name}\n" for name in registry.names), end="")
        known = f" for fingerprint {registry.fingerprint[:12]} of {registry.generator_name}"
        _tell(f"{counted(len(registry.users))}, keys of {registry.bits} bits{known if registry.fingerprint else ''}")
    else:
        key = key_to_text(read_registry(given.registry).key_of(given.name))
        _tell("warning: this key is a secret; whoever knows it can put this user's key into images")
        print(key)


def _make_bank(run: str, images: int) -> None:
    from lightning_modules.cli.unmarked_bank import build
    from lightning_modules.fingerprints.fingerprint import FingerprintError

    try:
        file, bank = build(run, images)
    except (ValueError, FileNotFoundError) as error:
        raise FingerprintError(str(error)) from error
    print(f"decoded {len(bank.names):,} images without key, and {bank.own_images:,} of the generator's own")
    print(file)


def _tell_of_no_bank(registry: KeyRegistry, begun: bool) -> None:
    """Once, when a registry is begun."""
    from lightning_modules.fingerprints.users.manage import missing_bank

    if begun and (told := missing_bank(registry)) is not None:
        print(told)


def _warn_of_capacity(registry: KeyRegistry) -> None:
    from lightning_modules.fingerprints.users.key_checks import RATE
    from lightning_modules.fingerprints.users.manage import capacity
    from lightning_modules.metrics.evidence import most_users

    users, most = len(registry.users), most_users(registry.bits, RATE)
    if 2 * users > most:
        share = "more than" if users > most else "more than half as many as"
        _tell(f"warning: found {counted(users)}, {share} their keys can tell apart: {capacity(registry)}")


def _tell(line: str) -> None:
    sys.stderr.write(f"{line}\n")


def counted(number: int) -> str:
    """A number of users in words."""
    return "1 user" if number == 1 else f"{number:,} users"


def _parser() -> CommandParser:
    parser = CommandParser("users", DESCRIPTION.format(program=program("users")))
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, about in COMMANDS.items():
        command = commands.add_parser(name, help=about, description=about, prog=f"{program('users')} {name}")
        if name == "merge":
            command.add_argument("registry", type=Path, nargs="+", help="the registries' files")
            command.add_argument("--out", type=Path, required=True, metavar="FILE", help="the registry to write")
        elif name == "bank":
            command.add_argument("run", help="run folder of a training, or the name of a fingerprint that ships")
            command.add_argument(
                "--images", type=int, default=1000, help="of the generator's own, marked and unmarked (default 1000)"
            )
        else:
            command.add_argument("registry", type=Path, help="the registry's file")
        if name == "create":
            command.add_argument("names", nargs="*", metavar="name", help="ids of the users")
            command.add_argument(
                "--names_file", type=Path, metavar="FILE", help="a text file of more ids, one a line, for many users"
            )
            command.add_argument(
                "--minimum_distance", type=int, default=0, metavar="BITS", help="bits in which keys must differ"
            )
        if name == "import":
            command.add_argument("table", type=Path, help="CSV file of lines user,key or user,key,check")
        if name == "export":
            command.add_argument("table", type=Path, help="the CSV file to write")
        if name in ("create", "import"):
            command.add_argument(
                "--fingerprint", type=Path, metavar="FILE", help="the fingerprint; needed to begin a registry"
            )
        if name == "show":
            command.add_argument("name", help="id of the user")
    return parser

"""The registry's file: damage is noticed, nothing is lost when registries are joined, a full disk leaves no keys."""

from __future__ import annotations

import errno
import json
import os
import random
import resource
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from small_registry import BITS, private, refused, told, write_small_fingerprint

from lightning_modules.cli.users import users as main
from lightning_modules.common.files import write_bytes
from lightning_modules.common.random_streams import seeded_keys
from lightning_modules.fingerprints.fingerprint import FingerprintError, read_fingerprint
from lightning_modules.fingerprints.users.key_registry import KeyRegistry, read_registry, write_registry
from lightning_modules.fingerprints.users.keys import key_check, key_to_text, pack_key
from lightning_modules.fingerprints.users.manage import create_users


def texts(path: Path) -> dict[str, str]:
    return json.loads(path.read_text())["users"]


def written_by_hand(path: Path, content: dict, users: list[tuple[str, str]]) -> Path:
    """A file as an editor leaves it, in which names may stand twice."""
    head = json.dumps({name: value for name, value in content.items() if name != "users"})
    lines = ", ".join(f"{json.dumps(user)}: {json.dumps(key)}" for user, key in users)
    return private(path, f'{head[:-1]}, "users": {{{lines}}}}}')


def test_every_changed_character_of_a_value_is_noticed(users):
    text = users.read_text()
    start = text.index('"bits"')
    places = [place for place in range(start, len(text)) if text[place].isalnum()]
    for place in random.Random(0).sample(places, 60):
        users.write_text(text[:place] + ("0" if text[place] != "0" else "1") + text[place + 1 :])
        with pytest.raises(FingerprintError):
            read_registry(users)
    users.write_text(text)
    read_registry(users)


def test_damage_is_refused_with_the_remedy_and_without_secrets(users, capsys):
    content, before = json.loads(users.read_text()), users.read_bytes()
    key = content["users"]["alice"]
    content["users"]["alice"] = f"{int(key[0], 16) ^ 15:x}{key[1:-1]}{int(key[-1], 16) ^ 15:x}"
    users.write_text(json.dumps(content))
    for command in (["list", str(users)], ["show", str(users), "bob"], ["create", str(users), "carol"]):
        message = refused(capsys, *command)
        assert f"{users}: found a registry that was changed or damaged" in message
        assert "restore it from a copy" in message
        assert f"evaluate.py users reseal {users}" in message
        assert len(message.splitlines()) == 1
        for secret in (key, content["users"]["alice"], content["checksum"]):
            assert secret not in message
    users.write_bytes(before)
    main(["list", str(users)])
    assert capsys.readouterr().out == "alice\nbob\n"


def test_a_new_layout_of_the_file_is_no_damage(users):
    content = json.loads(users.read_text())
    users.write_text(json.dumps(dict(reversed(content.items())), ensure_ascii=False))
    assert read_registry(users).names == ["alice", "bob"]


def test_the_checksum_cannot_be_left_out_or_the_version_lowered(users):
    content = json.loads(users.read_text())
    for changed in (
        {name: value for name, value in content.items() if name != "checksum"},
        {**content, "version": 2},
        {**content, "checksum": None},
    ):
        users.write_text(json.dumps(changed))
        with pytest.raises(FingerprintError, match="its checksum does not fit"):
            read_registry(users)


def test_a_hand_edit_is_sealed_anew(users, capsys):
    content = json.loads(users.read_text())
    content["users"]["robert"] = content["users"].pop("bob")
    users.write_text(json.dumps(content))
    assert "reseal" in refused(capsys, "list", str(users))
    main(["reseal", str(users)])
    shown = capsys.readouterr()
    assert (shown.out, shown.err) == ("users.json has a new checksum, for 2 users as they stand there\n", "")
    assert read_registry(users).names == ["alice", "robert"]
    assert stat.S_IMODE(users.stat().st_mode) == 0o600
    content["users"]["robert"] = "12"  # no key: sealing does not make it one
    users.write_text(json.dumps(content))
    assert "user 'robert': found 2 characters" in refused(capsys, "reseal", str(users))


def test_a_registry_without_checksum_goes_on_and_gets_one(users, capsys):
    content = json.loads(users.read_text())
    del content["checksum"]
    users.write_text(json.dumps({**content, "version": 2}))
    main(["list", str(users)])
    shown = capsys.readouterr()
    assert shown.out == "alice\nbob\n"
    assert shown.err.count("found no checksum") == 1
    assert "reseal" in shown.err
    main(["create", str(users), "carol"])
    assert told(capsys.readouterr().err) == f"warning: {users}: had no checksum; it has one now\n"
    assert "checksum" in json.loads(users.read_text())
    main(["list", str(users)])
    assert "checksum" not in capsys.readouterr().err
    assert {user: texts(users)[user] for user in content["users"]} == content["users"]


def test_a_name_that_stands_twice_is_refused_by_name(tmp_path, users, capsys):
    content = json.loads(users.read_text())
    a, b = (key_to_text(key) for key in seeded_keys(2, BITS, seed=5))
    pairs = [*content["users"].items(), ("carol", a), ("alice", b)]
    merged = written_by_hand(tmp_path / "merged.json", content, pairs)
    for command in (["list", str(merged)], ["create", str(merged), "dave"], ["reseal", str(merged)]):
        message = refused(capsys, *command)
        assert f"{merged}: found 'alice' more than once" in message
        assert "users merge A B --out C" in message
        assert not any(key in message for _, key in pairs)
    private(tmp_path / "head.json", users.read_text().replace('"bits": 16', '"bits": 8, "bits": 16'))
    assert "found 'bits' more than once" in refused(capsys, "list", str(tmp_path / "head.json"))


@pytest.fixture
def second(tmp_path, fingerprint) -> Path:
    path = tmp_path / "second.json"
    create_users(path, ["carol", "dave"], Path(fingerprint))
    return path


def add(path: Path, user: str, key: str) -> None:
    registry = read_registry(path)
    registry.add_known(user, key)
    write_registry(registry, path)


def test_registries_are_merged(tmp_path, users, second, capsys):
    add(second, "alice", texts(users)["alice"])  # in both, with one key
    before = users.read_bytes(), second.read_bytes()
    out = tmp_path / "all.json"
    main(["merge", str(users), str(second), "--out", str(out)])
    shown = capsys.readouterr()
    assert (shown.out, told(shown.err)) == ("all.json holds 4 users\n", "")
    assert read_registry(out).names == ["alice", "bob", "carol", "dave"]
    assert texts(out) == {**texts(users), **texts(second)}
    assert read_registry(out).fingerprint == read_registry(users).fingerprint != ""
    assert stat.S_IMODE(out.stat().st_mode) == 0o600
    assert (users.read_bytes(), second.read_bytes()) == before
    assert "there already" in refused(capsys, "merge", str(users), str(second), "--out", str(out))
    assert "at least two" in refused(capsys, "merge", str(users), str(users), "--out", str(tmp_path / "n.json"))


def test_what_cannot_be_merged_is_named(tmp_path, users, second, fingerprint, capsys):
    keys = [key_to_text(key) for key in seeded_keys(3, BITS, seed=7)]
    add(second, "alice", keys[0])  # another key
    add(second, "b\u043eb", keys[1])  # a Cyrillic o
    add(second, "erin", texts(users)["bob"])  # bob's key
    out = tmp_path / "all.json"
    message = refused(capsys, "merge", str(users), str(second), "--out", str(out))
    assert "found 3 users who cannot be joined" in message
    assert f"user 'alice' has one key in {users} and another in {second}" in message
    assert "can be taken for each other" in message
    assert ascii("b\u043eb") in message
    assert f"users 'bob' of {users} and 'erin' of {second} hold one key" in message
    assert not any(key in message for key in [*keys, *texts(users).values(), *texts(second).values()])
    assert not out.exists()
    other = write_small_fingerprint(tmp_path / "other.safetensors", 8)
    create_users(tmp_path / "third.json", ["x"], other)
    message = refused(capsys, "merge", str(users), str(tmp_path / "third.json"), "--out", str(out))
    assert "expected registries of one fingerprint" in message
    assert read_fingerprint(other).id[:12] in message
    assert not out.exists()


def test_an_export_is_read_back(tmp_path, users, fingerprint, capsys):
    create_users(users, ['O"Hara, Zo\u00eb', "=1+2"])
    table = tmp_path / "keys.csv"
    main(["export", str(users), str(table)])
    shown = capsys.readouterr()
    assert shown.out == "wrote 4 users to keys.csv\n"
    assert "secrets" in shown.err
    assert stat.S_IMODE(table.stat().st_mode) == 0o600
    assert table.read_text().splitlines()[0] == "user,key,check"
    assert not any(key in shown.out + shown.err for key in texts(users).values())
    main(["import", str(tmp_path / "back.json"), str(table), "--fingerprint", fingerprint])
    assert told(capsys.readouterr().err) == ""
    assert texts(tmp_path / "back.json") == texts(users)
    assert read_registry(tmp_path / "back.json").fingerprint == read_registry(users).fingerprint
    assert "there already" in refused(capsys, "export", str(users), str(table))


def test_a_line_that_was_typed_wrongly_is_named(tmp_path, users, fingerprint, capsys):
    table = tmp_path / "keys.csv"
    main(["export", str(users), str(table)])
    header, alice, bob = table.read_text().splitlines()
    _, key, check = alice.split(",")
    assert check == key_check("alice", read_registry(users).users["alice"])
    assert len(check) == 8
    assert check.isalpha()
    wrong = f"{int(key[0], 16) ^ 1:x}{key[1:]}"
    swapped = ",".join([bob.split(",")[0], key, check])
    new = ["import", str(tmp_path / "new.json"), str(table), "--fingerprint", fingerprint]
    for line, problem in ((f"alice,{wrong},{check}", "line 2"), (swapped, "line 2"), (f"alice,{key},", None)):
        table.write_text("\n".join([header, line, "zoe,0123"]))
        if problem is None:  # a line added by hand has no check
            main(new)
            assert read_registry(tmp_path / "new.json").names == ["alice", "zoe"]
        else:
            message = refused(capsys, *new)
            assert f"{problem}: found user and key that do not fit the check" in message
            assert not any(secret in message for secret in (key, wrong, check))
    table.write_text(f"alice,{key},{check.upper()}")  # as a form may write it
    (tmp_path / "new.json").unlink()
    main(new)


def test_a_table_with_look_alikes_is_refused(tmp_path, users, capsys):
    keys = [key_to_text(key) for key in seeded_keys(4, BITS, seed=9)]
    names = ["Alice", "carol", "c\u0430rol", "carol"]
    table = private(tmp_path / "k.csv", "\n".join(f"{name},{key}" for name, key in zip(names, keys, strict=True)))
    message = refused(capsys, "import", str(users), str(table))
    assert "line 1: found a user who can be taken for one who is registered already" in message
    assert "line 3: found a user who can be taken for that of line 2" in message
    assert "line 4: found the user of line 2 again" in message


@contextmanager
def full_disk(after: int) -> Iterator[None]:
    """Let no file grow beyond so many bytes, as on a disk that is full then."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (after, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_full_disk_leaves_the_registry_and_no_keys_beside_it(users, capsys):
    before = users.read_bytes()
    with full_disk(after=100):
        message = refused(capsys, "create", str(users), "carol")
    assert f"{users.parent} cannot be written to ({os.strerror(errno.EFBIG)})" in message
    assert users.read_bytes() == before
    assert sorted(path.name for path in users.parent.iterdir()) == [".users.json.lock", "users.json"]
    assert users.with_name(".users.json.lock").read_bytes() == b""
    keys = seeded_keys(2000, 64, seed=0)
    grown = KeyRegistry(64, {f"user{number}": pack_key(key) for number, key in enumerate(keys)})
    with full_disk(after=8192), pytest.raises(OSError, match=os.strerror(errno.EFBIG)):
        write_registry(grown, users)
    assert users.read_bytes() == before
    assert sorted(path.name for path in users.parent.iterdir()) == [".users.json.lock", "users.json"]
    with full_disk(after=10):
        refused(capsys, "export", str(users), str(users.with_name("keys.csv")))
    assert not any("keys" in path.name for path in users.parent.iterdir())


def test_an_interrupted_write_leaves_nothing(tmp_path, monkeypatch):
    def interrupt(descriptor):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", interrupt)
    with pytest.raises(KeyboardInterrupt):
        write_bytes(tmp_path / "keys", b"secret", private=True)
    assert list(tmp_path.iterdir()) == []


def test_what_a_killed_process_left_is_cleared_by_the_next(users):
    left = users.with_name(".users.json.12345.tmp")
    private(left, '{"users": {"alice": "12')
    other = private(users.with_name(".users.json2.12345.tmp"), "of another file")
    create_users(users, ["carol"])
    assert not left.exists()
    assert other.exists()


def test_a_lookup_by_another_spelling_finds_the_user(users, capsys):
    create_users(users, ["Jose\u0301"])
    main(["show", str(users), "JOS\u00c9"])
    assert capsys.readouterr().out.strip() == texts(users)["Jos\u00e9"]
    message = refused(capsys, "show", str(users), "\u0430lice")
    assert r"found no user" in message
    assert r"'\u0430lice'" in message
    assert "did you mean 'alice'?" in message


def test_a_registry_of_many_users_is_still_written_and_read(tmp_path):
    keys = seeded_keys(2000, 64, seed=0)
    registry = KeyRegistry(64, {f"n\u00ebw{number}": pack_key(key) for number, key in enumerate(keys)})
    write_registry(registry, tmp_path / "users.json")
    assert torch.equal(read_registry(tmp_path / "users.json").keys, keys)

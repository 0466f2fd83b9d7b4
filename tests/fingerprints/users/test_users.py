"""The command that registers users: what it does, what it refuses, and that keys stay where they belong."""

from __future__ import annotations

import gc
import json
import multiprocessing
import os
import stat
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from small_registry import BITS, private, refused, told, write_small_fingerprint

from lightning_modules.cli.users import users as main
from lightning_modules.common.random_streams import seeded_keys
from lightning_modules.fingerprints.fingerprint import FingerprintError, read_fingerprint, write_fingerprint
from lightning_modules.fingerprints.users.key_registry import (
    KeyRegistry,
    changing_registry,
    read_registry,
    write_registry,
)
from lightning_modules.fingerprints.users.keys import distances, key_to_text, pack_key
from lightning_modules.fingerprints.users.manage import create_users, export_users, import_users

ROOT = Path(__file__).parents[3]


def texts(path: Path) -> list[str]:
    return list(json.loads(path.read_text())["users"].values())


def test_users_are_created_listed_and_shown(tmp_path, fingerprint, capsys):
    users = tmp_path / "users.json"
    main(["create", str(users), "alice", "bob", "--fingerprint", fingerprint])
    assert capsys.readouterr().out.startswith("registered 2 users; users.json holds 2 users\n")
    assert stat.S_IMODE(users.stat().st_mode) == 0o600
    main(["create", str(users), "carol", "--minimum_distance", "3"])
    registry = read_registry(users, read_fingerprint(Path(fingerprint)))
    assert (registry.bits, registry.fingerprint) == (BITS, read_fingerprint(Path(fingerprint)).id)
    assert registry.names == ["alice", "bob", "carol"]
    assert int(distances(registry.users["carol"], registry.packed[:2]).min()) >= 3
    created = capsys.readouterr()
    main(["list", str(users)])
    listed = capsys.readouterr()
    assert listed.out == "alice\nbob\ncarol\n"
    assert listed.err == f"3 users, keys of 16 bits for fingerprint {registry.fingerprint[:12]} of g.pt\n"
    for key in texts(users):
        assert key not in created.out + created.err + listed.out + listed.err
    main(["show", str(users), "bob"])
    shown = capsys.readouterr()
    assert shown.out == texts(users)[1] + "\n"
    assert "secret" in shown.err
    assert texts(users)[1] not in shown.err


def test_a_new_registry_needs_a_fingerprint_and_an_old_one_must_fit(tmp_path, users, fingerprint, capsys):
    message = refused(capsys, "create", str(tmp_path / "new.json"), "alice")
    assert "begin one for a fingerprint with --fingerprint FILE" in message
    other = str(write_small_fingerprint(tmp_path / "other.safetensors", 8))
    message = refused(capsys, "create", str(users), "carol", "--fingerprint", other)
    assert "found keys of 16 bits, expected 8" in message
    stronger = replace(read_fingerprint(Path(fingerprint)), sigma=2.0)
    write_fingerprint(stronger, tmp_path / "stronger.safetensors")
    message = refused(capsys, "create", str(users), "carol", "--fingerprint", str(tmp_path / "stronger.safetensors"))
    assert f"found keys for the fingerprint {read_fingerprint(Path(fingerprint)).id[:12]} of g.pt" in message
    assert f"expected those for {stronger.id[:12]}" in message
    described = replace(read_fingerprint(Path(fingerprint)), generator_name="renamed.pt", sampling={"truncation": 0.5})
    write_fingerprint(described, tmp_path / "renamed.safetensors")
    main(["create", str(users), "carol", "--fingerprint", str(tmp_path / "renamed.safetensors")])
    assert "found no folder" in refused(capsys, "create", str(tmp_path / "no/u.json"), "a", "--fingerprint", other)
    assert not (tmp_path / "new.json").exists()


def test_creation_is_all_or_none(users, capsys):
    before = users.read_bytes()
    assert "found user 'alice' registered already" in refused(capsys, "create", str(users), "carol", "alice")
    assert "expected 0 to 16" in refused(capsys, "create", str(users), "carol", "--minimum_distance", "17")
    assert "printable name" in refused(capsys, "create", str(users), "carol", "two\nlines")
    assert users.read_bytes() == before
    assert "found no user 'eve' among 2 (alice, bob)" in refused(capsys, "show", str(users), "eve")


def test_keys_are_imported(tmp_path, users, fingerprint, capsys):
    keys = seeded_keys(2, BITS, seed=1)
    ones = "".join("1" if bit else "0" for bit in keys[1])
    lines = f'\ufeffUser,Key\r\n"carol, the first", {key_to_text(keys[0])}\r\n\r\n dave ,{ones}\n'
    table = private(tmp_path / "keys.csv", lines)
    main(["import", str(users), str(table)])
    shown = capsys.readouterr()
    assert (shown.out, told(shown.err)) == ("users.json holds 4 users\n", "")
    registry = read_registry(users)
    assert registry.names == ["alice", "bob", "carol, the first", "dave"]
    assert torch.equal(registry.keys[2:], keys)
    table.chmod(0o644)
    main(["import", str(tmp_path / "new.json"), str(table), "--fingerprint", fingerprint])
    assert "others can read the keys" in capsys.readouterr().err
    assert torch.equal(read_registry(tmp_path / "new.json").keys, keys)


def test_a_bad_table_is_refused_whole_and_names_every_bad_line(tmp_path, users, capsys):
    before, taken = users.read_bytes(), texts(users)[0]
    a, b = (key_to_text(key) for key in seeded_keys(2, BITS, seed=2))
    lines = [
        f"carol,{a}",  # the only good one
        "dave",
        f"alice,{b}",
        f"carol,{b}",
        f"erin,{a}",
        f"frank,{taken}",
        f"{b},grace",  # columns swapped: the key stands where the name should
        f"heidi,{b}0",
        f",{b}",
        f'"ivan,{b}',
        f"judy,{b},{b}",
    ]
    message = refused(capsys, "import", str(users), str(private(tmp_path / "keys.csv", "\n".join(lines))))
    assert message.splitlines()[0].startswith("error: keys.csv: found 10 bad of 11 lines, so nobody was registered")
    reasons = dict(line.strip().split(": ", 1) for line in message.splitlines()[1:])
    assert list(reasons) == [f"line {number}" for number in range(2, 12)]
    for number, expected in (
        (2, "found 1 fields, expected 2"),
        (3, "registered already; keys are never replaced"),
        (4, "found the user of line 1 again"),
        (5, "found the key of line 1 again"),
        (6, "found the key of a user who is registered already"),
        (7, "found 5 characters, expected a key of 16 bits"),
        (8, "found 5 characters, expected a key of 16 bits"),
        (9, "found no user id"),
        (10, "quotation mark that is not closed"),
        (11, "do not fit the check"),
    ):
        assert expected in reasons[f"line {number}"]
    for secret in (a, b, taken):
        assert secret not in message
    assert users.read_bytes() == before


def test_a_table_that_is_none_is_refused(tmp_path, users, capsys):
    assert "found no file" in refused(capsys, "import", str(users), str(tmp_path / "none.csv"))
    assert "found no user" in refused(capsys, "import", str(users), str(private(tmp_path / "k.csv", "user,key\n")))
    (tmp_path / "k.csv").write_bytes(b"\xff\xfe\x00")
    assert "no text in UTF-8" in refused(capsys, "import", str(users), str(tmp_path / "k.csv"))


def test_damaged_registries_end_in_a_message(users, capsys):
    users.write_bytes(b"\xff\xfe")
    assert "found a file that is no registry of users, or a damaged one" in refused(capsys, "list", str(users))
    users.write_text('{"users": []}')
    assert "found JSON that is no registry of users" in refused(capsys, "list", str(users))
    users.write_text(json.dumps({"format": "manifold-fingerprints registry", "version": 2, "bits": "x", "users": {}}))
    assert "found a damaged registry" in refused(capsys, "create", str(users), "carol")
    users.chmod(0o644)
    assert "chmod 600" in refused(capsys, "show", str(users), "alice")
    text = users.with_name("README.md")
    text.write_text("# not a registry")
    assert "README.md: found a file that is no registry of users; check the name" in refused(
        capsys, "create", str(text), "alice"
    )
    assert not list(users.parent.glob(".README.md*"))


def _create_many(path: str, prefix: str, start) -> None:
    torch.set_num_threads(1)
    start.wait(timeout=60)
    for i in range(15):
        create_users(Path(path), [f"{prefix}{i}"])


def test_processes_that_register_at_once_lose_nobody(users):
    context = multiprocessing.get_context("fork")
    start = context.Barrier(3)
    workers = [context.Process(target=_create_many, args=(str(users), prefix, start)) for prefix in "xyz"]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(timeout=60)
        assert worker.exitcode == 0
    names = read_registry(users).names
    assert sorted(names) == sorted(["alice", "bob", *(f"{prefix}{i}" for prefix in "xyz" for i in range(15))])


def test_a_change_that_fails_is_not_written_and_frees_the_lock(users):
    before = users.read_bytes()
    with pytest.raises(FingerprintError, match="registered already"):
        create_users(users, ["carol", "alice"])
    assert users.read_bytes() == before
    with changing_registry(users) as registry:
        registry.create("dave")
    assert read_registry(users).names == ["alice", "bob", "dave"]
    link = users.with_name("link.json")
    link.symlink_to(users)
    with changing_registry(link) as registry:
        registry.create("erin")
    assert link.is_symlink()
    assert read_registry(users).names[-1] == "erin"


def test_a_large_registry_is_read_in_linear_time(tmp_path):
    """Twenty thousand users: comparing each key with all before it would be two hundred million comparisons."""
    keys = seeded_keys(20_000, 64, seed=0)
    registry = KeyRegistry(64, {f"user{i}": pack_key(key) for i, key in enumerate(keys)})
    write_registry(registry, tmp_path / "users.json")
    back = read_registry(tmp_path / "users.json")
    assert torch.equal(back.keys, keys)
    with pytest.raises(FingerprintError, match="found the key of user 'user777'"):
        back.add("eve", key_to_text(keys[777]))


def test_a_registry_grows_and_is_read_in_linear_time(tmp_path, fingerprint):
    """Four times as many users take about four times as long; comparing each with all before it, sixteen times."""
    seconds = {}
    for count in (5_000, 20_000, 5_000, 20_000):
        folder = tmp_path / f"{count}-{len(seconds)}"
        folder.mkdir()
        names = [f"user{i}" for i in range(count)]
        longer = write_small_fingerprint(folder / "f.safetensors", 32)
        gc.collect()
        start = time.process_time()
        create_users(folder / "users.json", names, longer)
        read_registry(folder / "users.json")
        export_users(folder / "users.json", folder / "keys.csv")
        import_users(folder / "back.json", folder / "keys.csv", longer)
        taken = time.process_time() - start
        seconds[count] = min(taken, seconds.get(count, taken))
        assert texts(folder / "back.json") == texts(folder / "users.json")
        assert len(set(texts(folder / "users.json"))) == count
    assert seconds[20_000] < 7 * seconds[5_000]


def test_how_many_users_keys_tell_apart_is_said_and_warned_of_before(tmp_path, capsys):
    fingerprint, users = str(write_small_fingerprint(tmp_path / "f.safetensors", 32)), tmp_path / "users.json"
    main(["create", str(users), "alice", "--fingerprint", fingerprint])
    created = capsys.readouterr()
    assert "keys of 32 bits tell at most 4,294 users apart at a false-positive rate of 1e-06" in created.out
    assert created.err == ""
    many = tmp_path / "names.txt"
    many.write_text("".join(f"user{i}\r\n" for i in range(2200)) + "\n")
    main(["create", str(users), "bob", "--names_file", str(many)])
    created = capsys.readouterr()
    assert created.out.startswith("registered 2,201 users; users.json holds 2,202 users\n")
    assert created.err.startswith(
        "warning: found 2,202 users, more than half as many as their keys can tell apart: keys"
    )
    many.write_text("".join(f"more{i}\n" for i in range(2200)))
    main(["create", str(users), "--names_file", str(many)])
    assert "found 4,402 users, more than their keys can tell apart: keys of 32 bits" in capsys.readouterr().err
    assert "found no user to register" in refused(capsys, "create", str(users))
    assert "found no file" in refused(capsys, "create", str(users), "--names_file", str(tmp_path / "nowhere"))


def test_the_command_itself_runs(users, fingerprint):
    command = [sys.executable, "evaluate.py", "users"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    shown = subprocess.run(
        [*command, "create", str(users), "alice"],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert shown.returncode == 2
    assert shown.stdout == ""
    assert shown.stderr.startswith("error: found user 'alice' registered already")
    assert "Traceback" not in shown.stderr

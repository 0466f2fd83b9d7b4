"""`evaluate.py generate` with a fingerprint: images that carry one user's key, and no trace of the key elsewhere."""

from __future__ import annotations

import json
import os
import pickle
import threading
import unicodedata
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from fingerprinted_room import BITS, KEYS, contents, generate, named, spellings, write_its_fingerprint, write_room
from PIL import Image

from lightning_modules.cli.generate.fingerprinted import load_marked
from lightning_modules.common.images import to_uint8
from lightning_modules.common.random_streams import standard_normal_latents
from lightning_modules.common.weights import content_hash
from lightning_modules.fingerprints.fingerprint import read_fingerprint, write_fingerprint
from lightning_modules.fingerprints.users.key_registry import read_registry
from lightning_modules.generators import load_generator

ROOT = Path(__file__).parents[3]
CONFIG = ROOT / "configs" / "generate" / "fingerprinted.yaml"
CHILDREN = Path(f"/proc/{os.getpid()}/task/{os.getpid()}/children")


@pytest.fixture(scope="module")
def room(tmp_path_factory):
    return write_room(tmp_path_factory.mktemp("room"))


@pytest.fixture
def known(room):
    return named(room)


def pixels(folder, n):
    return np.stack([np.asarray(Image.open(folder / f"{index:07d}.png")) for index in range(n)])


@pytest.mark.parametrize("prior", ["projected", "gaussian"])
def test_the_images_are_those_of_the_latents_with_the_users_key(prior, room, tmp_path):
    file = tmp_path / "f" / "fingerprint.safetensors"
    write_its_fingerprint(room / "g.safetensors", file, prior)
    given = ("--fingerprint", file, "--registry", room / "users.json", "--user", "alice", "--n", 3, "--seed", 7)
    folder = generate("--generator", room / "g.safetensors", *given, "--out", tmp_path / "a")
    generator, fingerprint = load_generator(room / "g.safetensors"), read_fingerprint(file)
    if prior == "projected":
        latents = generator.sample_latents(32, seed=7)
    else:
        latents = fingerprint.gaussian_latents(standard_normal_latents(32, fingerprint.latent_dim, 7))
    key = read_registry(room / "users.json").key_of("alice")
    marked = fingerprint.embed(latents, key[None])
    coordinates = (marked - fingerprint.mean) @ fingerprint.key_axes[0].T
    assert torch.equal(coordinates > fingerprint.sigma / 2, key.expand(32, -1))  # the key can be read off the latents
    expected = to_uint8(generator.synthesize(marked)).permute(0, 2, 3, 1).numpy()
    np.testing.assert_array_equal(pixels(folder, 3), expected[:3])
    plain = to_uint8(generator.synthesize(latents)).permute(0, 2, 3, 1).numpy()
    assert (plain[:3] != expected[:3]).any(axis=(1, 2, 3)).all()


def test_user_and_seed_decide_the_bytes(known, tmp_path):
    asked = {"first": ("alice", 1), "again": ("alice", 1), "seed": ("alice", 2), "user": ("bob", 1)}
    written = {
        name: contents(generate(*known, "--user", user, "--seed", seed, "--n", 2, "--out", tmp_path / name))
        for name, (user, seed) in asked.items()
    }
    assert written["again"] == written["first"]
    images = {images[f"{index:07d}.png"] for name, images in written.items() if name != "again" for index in range(2)}
    assert len(images) == 6


def test_the_generator_and_its_noise_are_the_fingerprints_unless_given(room, tmp_path):
    write_its_fingerprint(room / "g.safetensors", tmp_path / "f" / "fingerprint.safetensors", noise="none")
    given = ("--fingerprint", tmp_path / "f", "--registry", room / "users.json", "--user", "alice", "--n", 1)
    record = json.loads((generate(*given, "--out", tmp_path / "a") / "generation.json").read_text())
    assert record["settings"]["noise"] == "none"


def test_images_are_sampled_as_the_fingerprint_says_unless_told_otherwise(room, known, tmp_path):
    file = tmp_path / "f" / "fingerprint.safetensors"
    file.parent.mkdir()
    made = read_fingerprint(room / "run" / "fingerprint.safetensors")
    write_fingerprint(replace(made, sampling={"truncation": 0.7}), file)
    given = (*known[:2], "--fingerprint", file, *known[4:], "--user", "alice", "--n", 1)
    folder = generate(*given, "--out", tmp_path / "a")
    assert json.loads((folder / "generation.json").read_text())["settings"]["truncation"] == 0.7
    same = generate(*known, "--user", "alice", "--n", 1, "--options.truncation", 0.7, "--out", tmp_path / "b")
    assert contents(folder)["0000000.png"] == contents(same)["0000000.png"]
    other = generate(*given, "--options.truncation", 0.9, "--out", tmp_path / "c")
    assert json.loads((other / "generation.json").read_text())["settings"]["truncation"] == 0.9


def test_the_record_names_user_and_fingerprint(room, known, tmp_path):
    folder = generate(*known, "--user", "Ålice Õun", "--n", 1, "--out", tmp_path / "a", "--options.truncation", 0.7)
    record = json.loads((folder / "generation.json").read_text())
    assert record["fingerprint"] == {
        "user": "Ålice Õun",
        "id": read_fingerprint(room / "run" / "fingerprint.safetensors").id,
        "bits": BITS,
        "sigma": 2.0,
        "centred": False,
        "layout": "flat",
        "latent_prior": "projected",
    }
    assert (record["generator"], record["settings"]["truncation"]) == ("StyleGAN2Generator", 0.7)
    assert record["weights"] == content_hash(load_generator(room / "g.safetensors").state_dict())


def test_a_user_is_found_by_another_spelling_of_the_name(known, tmp_path):
    name = "\u00c5lice \u00d5un"
    spelled = unicodedata.normalize("NFD", name.upper()).replace(" ", "  ")
    assert spelled != name
    one = contents(generate(*known, "--user", name, "--n", 1, "--out", tmp_path / "a"))
    assert contents(generate(*known, "--user", spelled, "--n", 1, "--out", tmp_path / "b")) == one


def test_records_of_two_keys_differ_by_the_user_alone(known, tmp_path):
    records = []
    for user in ("alice", "bob"):
        folder = generate(*known, "--user", user, "--n", 1, "--out", tmp_path / user)
        records.append(json.loads((folder / "generation.json").read_text()))
        assert records[-1]["fingerprint"].pop("user") == user
    assert records[0] == records[1]  # no hash of the key either: 32 bits are found by trying them all


def test_the_key_is_written_and_said_nowhere(room, known, tmp_path, capfd):
    registry = (room / "users.json").read_bytes()
    folder = generate(*known, "--user", "alice", "--n", 2, "--out", tmp_path / "a")
    output = capfd.readouterr()
    with pytest.raises(SystemExit) as caught:
        generate(*known, "--user", "alice", "--n", 2, "--out", tmp_path / "a", "--options.steps", 3)
    marked = load_marked(str(room / "run"), "alice", str(room / "users.json"), str(room / "g.safetensors"))
    texts = [output.out, output.err, str(caught.value.code), capfd.readouterr().err, repr(marked), str(marked.mark)]
    assert f"user alice of {room / 'users.json'}: key of 32 bits" in output.out
    texts += [content.decode("latin-1") for content in contents(folder).values()]
    raw = bytes.fromhex(KEYS["alice"]).decode("latin-1")
    for text in texts:
        assert raw not in text
        assert not [spelling for spelling in spellings("alice") if spelling in text.lower()]
    assert {path.name for path in folder.iterdir()} == {"0000000.png", "0000001.png", "generation.json"}
    assert (room / "users.json").read_bytes() == registry
    assert (room / "users.json").stat().st_mode & 0o777 == 0o600


def test_a_pickled_generator_makes_the_same_latents(room):
    marked = load_marked(str(room / "run"), "alice", str(room / "users.json"))
    rebuilt = pickle.loads(pickle.dumps(marked))
    assert torch.equal(rebuilt.sample_latents(4, seed=1, start=8), marked.sample_latents(4, seed=1, start=8))
    torch.testing.assert_close(marked.sample_latents(8, seed=1, start=4)[4:], marked.sample_latents(4, seed=1, start=8))


@pytest.mark.skipif(not CHILDREN.exists(), reason="needs the list of child processes in /proc")
def test_two_processes_write_the_same_bytes_and_no_command_line_shows_the_key(known, tmp_path):
    asked = (*known, "--user", "alice", "--n", 70, "--seed", 3)
    one = generate(*asked, "--processes", 1, "--out", tmp_path / "1")
    seen: set[str] = set()
    done = threading.Event()

    def watch() -> None:
        while not done.wait(0.05):
            for child in CHILDREN.read_text().split():
                try:
                    seen.add(Path(f"/proc/{child}/cmdline").read_text() + Path(f"/proc/{child}/environ").read_text())
                except OSError:
                    continue  # it has ended

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        two = generate(*asked, "--processes", 2, "--out", tmp_path / "2")
    finally:
        done.set()
        watcher.join()
    assert contents(two) == contents(one)
    assert len(contents(two)) == 71
    assert any("spawn_main" in line for line in seen)
    assert not [spelling for spelling in spellings("alice") for line in seen if spelling in line.lower()]


def test_help_tells_of_the_users_keys(known, capsys):
    with pytest.raises(SystemExit) as caught:
        generate(*known, "--help")
    assert caught.value.code == 0
    text = " ".join(capsys.readouterr().out.split())
    assert "Give each user's batch a seed of its own" in text
    assert "--user" in text


@pytest.mark.parametrize("name", ["ldm", "stylegan2"])
def test_the_config_that_ships_is_run_with_either_fingerprint(name, room, tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    trained = Path("lightning_modules/fingerprints/trained")
    fields = yaml.safe_load(CONFIG.read_text())
    assert "user" not in fields
    assert Path(fields["fingerprint"]) == trained / "ldm"
    given = ("--fingerprint", trained / name, "--registry", room / "users.json", "--user", "alice")
    folder = generate("--config", CONFIG, *given, "--n", 2, "--processes", 1, "--out", tmp_path / "images")
    assert len(list(folder.glob("*.png"))) == 2
    fingerprint = read_fingerprint(trained / name / "fingerprint.safetensors")
    generator = load_generator(fingerprint.generator_name, **fingerprint.sampling)
    latents = generator.sample_latents(2, 0)
    key = read_registry(room / "users.json").key_of("alice")
    expected = to_uint8(generator.synthesize(fingerprint.embed(latents, key[None])))
    np.testing.assert_array_equal(pixels(folder, 2), expected.permute(0, 2, 3, 1).numpy())

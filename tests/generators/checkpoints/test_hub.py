"""Generators of a hub by name, from a hub on this machine: what is fetched, kept, recorded and refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from compvis_checkpoints import GOLDEN, SMALL, compvis_state
from huggingface_hub import snapshot_download
from local_hub import Hub, point_client_to, serving
from public_files import rosinality_state, write_rosinality
from seeded import seeded_tensor

from lightning_modules.cli.generate.command import generate
from lightning_modules.generators import load_generator
from lightning_modules.generators.checkpoints.hub import HubName, hub_name
from lightning_modules.generators.checkpoints.load import convert
from lightning_modules.generators.checkpoints.own_file import read_manifest
from lightning_modules.generators.checkpoints.stored import CheckpointError
from lightning_modules.generators.latent_diffusion import LatentDiffusionGenerator

WEIGHTS = "diffusion_pytorch_model"


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A hub that serves; `hub.stop()` takes it away."""
    found = Hub()
    server = serving(found)
    point_client_to(server.__enter__(), tmp_path / "cache", monkeypatch)
    stopped = []

    def stop():
        if not stopped:
            server.__exit__(None, None, None)
            stopped.append(True)

    found.stop = stop
    monkeypatch.chdir(tmp_path)
    yield found
    stop()


def write_ldm(folder, shift=0.0):
    from diffusers import DDIMScheduler

    network = LatentDiffusionGenerator(**json.loads(json.dumps(SMALL)))
    state = {name: seeded_tensor(name, v.shape) + shift for name, v in network.state_dict().items()}
    network.load_state_dict(state)
    network.first_stage.model.save_pretrained(folder / "vqvae")
    network.unet.model.save_pretrained(folder / "unet")
    DDIMScheduler(**network.scheduler).save_pretrained(folder / "scheduler")
    (folder / "model_index.json").write_text('{"_class_name": "LDMPipeline"}')
    return folder


def test_only_what_the_loader_needs_is_fetched_once_and_the_commit_recorded(hub, tmp_path):
    folder = write_ldm(tmp_path / "made")
    for part in ("unet", "vqvae"):
        shutil.copy(folder / part / f"{WEIGHTS}.safetensors", folder / part / f"{WEIGHTS}.fp16.safetensors")
        (folder / part / f"{WEIGHTS}.bin").write_bytes(b"0" * 1000)
    (folder / "README.md").write_text("about")
    (folder / "unet_ema").mkdir()
    (folder / "unet_ema" / f"{WEIGHTS}.safetensors").write_bytes(b"0" * 1000)
    commit = hub.publish("CompVis/ldm-celebahq-256", folder)
    generator = load_generator("CompVis/ldm-celebahq-256", steps=2)
    wanted = {"model_index.json", "scheduler/scheduler_config.json"}
    wanted |= {f"{part}/{file}" for part in ("unet", "vqvae") for file in ("config.json", f"{WEIGHTS}.safetensors")}
    assert sorted(hub.fetched) == sorted(f"CompVis/ldm-celebahq-256/{file}" for file in wanted)
    local = load_generator(folder, steps=2)
    z = local.sample_latents(2, seed=0)
    assert torch.equal(generator.sample_latents(2, seed=0), z)
    assert torch.equal(generator.synthesize(z), local.synthesize(z))
    assert generator.origin["hub"] == f"hf://CompVis/ldm-celebahq-256@{commit}"
    assert generator.origin["revision"] == commit
    assert generator.origin["file"] == "CompVis/ldm-celebahq-256"
    assert generator.report[0] == f"hub: CompVis/ldm-celebahq-256 at revision {commit}, from the hub or its cache"
    load_generator("hf://CompVis/ldm-celebahq-256", steps=2)
    assert len(hub.fetched) == len(wanted)  # the second time from the cache

    manifest = convert("hf://CompVis/ldm-celebahq-256", tmp_path / "own.safetensors")
    assert manifest["origin"]["revision"] == commit
    assert read_manifest(tmp_path / "own.safetensors")["origin"]["hub"].endswith(f"@{commit}")


def test_cached_copies_work_without_the_hub_and_nothing_else_does(hub, tmp_path):
    commit = hub.publish("some/ldm", write_ldm(tmp_path / "made"))
    online = load_generator("some/ldm", steps=2)
    hub.stop()
    for name in ("some/ldm", "hf://some/ldm", f"hf://some/ldm@{commit}"):
        offline = load_generator(name, steps=2)
        z = online.sample_latents(1, seed=0)
        assert torch.equal(offline.synthesize(z), online.synthesize(z))
        assert offline.origin == online.origin
        assert offline.report[0].endswith("from the cache, since the hub was not reached")
    for name in ("some/other", "hf://some/ldm@v2"):
        with pytest.raises(
            CheckpointError, match=r"the hub could not be reached for it \(\w+.*expected a local path.*hf d"
        ) as e:
            load_generator(name)
        assert "\n" not in str(e.value)


def test_a_cached_copy_that_is_not_whole_says_so(hub, tmp_path):
    hub.publish("some/ldm", write_ldm(tmp_path / "made"))
    place = Path(snapshot_download("some/ldm", allow_patterns=["*.json"]))
    hub.stop()
    message = r"hf://some/ldm@\w+: found no .*in .*vqvae.*\(in the cached copy, since the hub was not reached\)$"
    with pytest.raises(CheckpointError, match=message):
        load_generator("some/ldm")
    assert (place / "unet" / "config.json").is_file()


def test_a_download_that_stops_says_what_to_do(hub, tmp_path):
    folder = write_ldm(tmp_path / "made")
    hub.publish("some/ldm", folder)
    hub.broken = f"unet/{WEIGHTS}.safetensors"
    with pytest.raises(
        CheckpointError, match=r"hf://some/ldm: found a download that stopped \(.*run the command again"
    ):
        load_generator("some/ldm")
    hub.broken = ""
    assert load_generator("some/ldm").kind == "latent_diffusion"


def test_no_cache_and_no_hub_is_one_line(hub, monkeypatch):
    from huggingface_hub import constants

    hub.stop()
    with pytest.raises(CheckpointError, match=r"found no some/ldm here, and the hub could not be reached"):
        load_generator("some/ldm")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(CheckpointError, match=r"copy the folder it names here and give its path"):
        load_generator("some/ldm")


def test_revisions_are_told_apart(hub, tmp_path):
    first = hub.publish("some/ldm", write_ldm(tmp_path / "a"))
    second = hub.publish("some/ldm", write_ldm(tmp_path / "b", shift=0.01), branch="v2")
    assert first != second
    old, new = load_generator("hf://some/ldm"), load_generator("some/ldm@v2")
    assert (old.origin["revision"], new.origin["revision"]) == (first, second)
    assert old.origin["sha256"] != new.origin["sha256"]
    hub.publish("some/ldm", tmp_path / "b")  # the main branch moves on
    pinned = load_generator(old.origin["hub"])
    assert pinned.origin == old.origin
    assert load_generator("some/ldm").origin == new.origin
    with pytest.raises(CheckpointError, match="hf://some/ldm@v3: found no revision v3"):
        load_generator("hf://some/ldm@v3")


def test_single_checkpoints_are_found_or_named(hub, tmp_path):
    folder = tmp_path / "made"
    folder.mkdir()
    (folder / "README.md").write_text("about")
    hub.publish("some/gan", folder)
    with pytest.raises(CheckpointError, match=r"found no diffusers folder .* no checkpoint; it holds README\.md"):
        load_generator("some/gan")
    write_rosinality(folder / "550000.pt", rosinality_state(8, 4, 1))
    commit = hub.publish("some/gan", folder)
    generator = load_generator("some/gan", truncation=0.5)
    assert generator.origin["file"] == "550000.pt"
    assert generator.origin["hub"] == f"hf://some/gan@{commit}/550000.pt"
    assert load_generator(generator.origin["hub"]).origin == generator.origin
    (folder / "more").mkdir()
    torch.save({"state_dict": compvis_state("vq")}, folder / "more" / "model.ckpt")
    shutil.copy(GOLDEN / "vq.yaml", folder / "more" / "config.yaml")
    shutil.copy(folder / "550000.pt", folder / "other.pt")
    hub.publish("some/gan", folder)
    with pytest.raises(
        CheckpointError, match=r"found 2 checkpoints in it, expected one; name it, such as hf://some/gan/5"
    ):
        load_generator("some/gan")
    hub.fetched.clear()
    assert load_generator("hf://some/gan/more/model.ckpt").kind == "latent_diffusion"
    assert sorted(hub.fetched) == ["some/gan/more/config.yaml", "some/gan/more/model.ckpt"]
    with pytest.raises(CheckpointError, match=r"hf://some/gan/no\.pt: found no such file in the repository; it holds"):
        load_generator("hf://some/gan/no.pt")


def test_sharded_halves_are_fetched_with_their_shards_alone(hub, tmp_path):
    folder = write_ldm(tmp_path / "made")
    from diffusers import UNet2DModel

    whole = UNet2DModel.from_pretrained(folder / "unet")
    for path in (folder / "unet").iterdir():
        path.unlink()
    whole.half().save_pretrained(folder / "unet", variant="fp16", max_shard_size="20KB")
    whole.save_pretrained(folder / "unet", variant="non_ema", max_shard_size="20KB")
    hub.publish("some/ldm", folder)
    load_generator("some/ldm")
    shards = {path.name for path in (folder / "unet").iterdir() if "fp16" in path.name and "-of-" in path.name}
    assert len(shards) > 1
    assert {name.rpartition("/")[2] for name in hub.fetched if "-of-" in name} == shards


def test_other_families_and_missing_prompts_are_refused_before_weights_are_fetched(hub, tmp_path):
    for name, pipeline, message in (
        ("some/sdxl", "StableDiffusionXLPipeline", r"found Stable Diffusion XL \(.*\) in hf://some/sdxl, expected"),
        ("some/sd", "StableDiffusionPipeline", "hf://some/sd: found a text-conditional model and no prompts, expected"),
    ):
        folder = tmp_path / pipeline
        for part in ("unet", "vae", "text_encoder"):
            (folder / part).mkdir(parents=True)
            (folder / part / "config.json").write_text('{"_class_name": "UNet2DConditionModel"}')
            (folder / part / f"{WEIGHTS}.safetensors").write_bytes(b"0" * 1000)
        (folder / "model_index.json").write_text(json.dumps({"_class_name": pipeline}))
        hub.publish(name, folder)
        with pytest.raises(CheckpointError, match=message):
            load_generator(name)
    assert not [name for name in hub.fetched if name.endswith(".safetensors")]


def test_unknown_repositories_and_hostile_files_end_in_one_line(hub, tmp_path):
    with pytest.raises(
        CheckpointError, match="found no no/thing, neither a local file or folder nor a repository of the"
    ):
        load_generator("no/thing")
    (tmp_path / "made").mkdir()
    torch.save({"g_ema": print}, tmp_path / "made" / "a.pt")
    hub.publish("some/code", tmp_path / "made")
    with pytest.raises(CheckpointError, match=r"hf://some/code@\w+/a\.pt: found the global '\w+\.print'"):
        load_generator("some/code")


def test_generate_takes_a_name_of_the_hub(hub, tmp_path, capsys):
    commit = hub.publish("some/ldm", write_ldm(tmp_path / "made"))
    arguments = ["--generator", "some/ldm", "--n", "2", "--out", str(tmp_path / "images"), "--options.steps", "2"]
    generate(arguments)
    assert len(list((tmp_path / "images").glob("*.png"))) == 2
    assert f"hub: some/ldm at revision {commit}" in capsys.readouterr().out
    with pytest.raises(SystemExit, match=r"evaluate\.py generate: found no no/thing, neither a local"):
        generate(["--generator", "no/thing", "--n", "2", "--out", str(tmp_path / "none")])
    assert not (tmp_path / "none").exists()


def test_a_fingerprint_names_the_commit_of_its_generator(hub, tmp_path):
    from lightning_modules.latent_fingerprint import LatentFingerprint

    commit = hub.publish("some/ldm", write_ldm(tmp_path / "made"))
    module = LatentFingerprint(
        "some/ldm",
        options={"steps": 1},
        key={"bits": 8, "fit_latents": 300},
        training={"backbone": "test_resnet", "stem": "small"},
        decoder={"name": "paper"},
    )
    fingerprint = module._require_fingerprint()
    assert fingerprint.generator_name == f"hf://some/ldm@{commit}"


NAMES = {
    "CompVis/ldm-celebahq-256": HubName("CompVis/ldm-celebahq-256"),
    "google/ddpm.v1.5": HubName("google/ddpm.v1.5"),
    "a/b@refs/pr/3": HubName("a/b", "refs/pr/3"),
    "hf://a/b": HubName("a/b"),
    "hf://a/b@main": HubName("a/b", "main"),
    "hf://a/b@v1/c/d.pkl": HubName("a/b", "v1", "c/d.pkl"),
    "hf://a/b@refs/pr/3/d.pkl": HubName("a/b", "refs/pr/3", "d.pkl"),
    "hf://a/b/d.pkl": HubName("a/b", None, "d.pkl"),
    **dict.fromkeys(
        (
            "data/typo.pt",
            "data/typo.PKL",
            "a/b/c",
            "gan-stylegan2",
            "./a/b",
            "/a/b",
            "~/b",
            "../b",
            "a/",
            "a/b.safetensors",
        ),
        None,
    ),
}


@pytest.mark.parametrize("name", NAMES)
def test_which_names_are_the_hubs(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert hub_name(name) == NAMES[name]
    if NAMES[name] is not None:
        assert hub_name(str(HubName("a/b", "v1", "c.pkl"))) == HubName("a/b", "v1", "c.pkl")


@pytest.mark.parametrize("name", ["hf://a", "hf://", "hf://a/b@", "hf://a/b@@c", "hf:///a/b"])
def test_malformed_names_say_the_form(name):
    with pytest.raises(CheckpointError, match=r"expected hf://ORG/NAME\[@REVISION\]\[/FILE\]"):
        load_generator(name)


def test_a_mistyped_path_is_never_sent_to_the_hub(hub, tmp_path):
    (tmp_path / "data" / "faces").mkdir(parents=True)
    hub.publish("data/face", write_ldm(tmp_path / "made"))
    hub.publish("data/typo.pt", tmp_path / "made")
    with pytest.raises(CheckpointError, match=r"found no data/face; did you mean data/faces\? .*write hf://data/face"):
        load_generator("data/face")
    for name in ("data/typo.pt", "nowhere/typo.pt", "nowhere/at/all", str(tmp_path / "typo")):
        with pytest.raises(CheckpointError, match=f"^found no {name}; "):
            load_generator(name)
    assert hub.fetched == []
    (tmp_path / "made").rename(tmp_path / "data" / "face")
    assert "hub" not in load_generator("data/face").origin  # what is here is meant
    assert hub.fetched == []
    assert Path("data/face").is_dir()

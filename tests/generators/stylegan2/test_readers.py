"""Reading StyleGAN2 checkpoints: what is taken, what is left aside, what is refused and how that is said."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from public_files import nvidia_state, rosinality_state, write_nvidia, write_rosinality
from torch import Tensor

from lightning_modules.generators import load_generator
from lightning_modules.generators.checkpoints.load import read_generator
from lightning_modules.generators.checkpoints.own_file import write_generator
from lightning_modules.generators.checkpoints.stored import CheckpointError
from lightning_modules.generators.stylegan2 import StyleGAN2Generator
from lightning_modules.generators.stylegan2.read_nvidia import read_nvidia
from lightning_modules.generators.stylegan2.read_rosinality import read_rosinality

State = dict[str, Tensor]


def small_rosinality() -> State:
    return rosinality_state(16, width=8, depth=3)


def small_nvidia() -> State:
    return nvidia_state(16, width=8, depth=2)


def test_a_training_checkpoint_of_rosinality_is_read_past_its_other_contents(tmp_path: Path) -> None:
    stored = read_rosinality(write_rosinality(tmp_path / "g.pt", small_rosinality()))
    assert stored.kind == "stylegan2"
    assert stored.arguments["image_size"] == 16
    assert stored.arguments["channels"] == [8, 8, 8]
    assert stored.arguments["mapping_layers"] == 3
    assert stored.arguments["resample_filter"] == [1.0, 3.0, 3.0, 1.0]
    report = "\n".join(stored.report)
    assert re.search(r"g_ema: (\d+) of \1 tensors matched", report)
    assert "left aside: g_optim, args" in report
    assert "mean for truncation: not in the file, measured on 10000 latents" in report


def test_the_measured_mean_is_the_mean_of_w(tmp_path: Path) -> None:
    stored = read_rosinality(write_rosinality(tmp_path / "g.pt", small_rosinality()))
    generator = StyleGAN2Generator(**stored.arguments)
    generator.load_state_dict(stored.tensors)
    w = generator.freeze().sample_latents(20_000, seed=99)
    error = (w.mean(dim=0) - stored.tensors["mapping.mean"]).abs() / w.std(dim=0)
    assert float(error.max()) < 0.05


def test_a_stored_mean_is_preferred_and_a_bare_state_dict_is_read(tmp_path: Path) -> None:
    mean = torch.arange(8.0)
    stored = read_rosinality(write_rosinality(tmp_path / "g.pt", small_rosinality(), latent_avg=mean))
    assert torch.equal(stored.tensors["mapping.mean"], mean)
    torch.save(small_rosinality(), tmp_path / "bare.pt")
    bare = read_rosinality(tmp_path / "bare.pt")
    assert torch.equal(bare.tensors["synthesis.constant"], stored.tensors["synthesis.constant"])


def test_a_network_pickle_of_nvidia_is_read_without_running_its_source(tmp_path: Path) -> None:
    stored = read_nvidia(write_nvidia(tmp_path / "g.pkl", small_nvidia(), clamp=256))
    assert stored.arguments["clamp"] == 256
    assert stored.arguments["channels"] == [8, 8, 8]
    assert not stored.arguments["scale_before_demodulation"]
    assert "source code in the file, which was not run" in "\n".join(stored.report)
    assert read_nvidia(write_nvidia(tmp_path / "g.pkl", small_nvidia(), clamp=None)).arguments["clamp"] is None


def without_noise_maps(state: State, names: tuple[str, ...]) -> State:
    return {name: value for name, value in state.items() if not name.endswith(names) and not name.startswith(names)}


@pytest.mark.parametrize("format", ["rosinality", "nvidia"])
def test_a_file_without_noise_maps_gives_the_same_images_and_refuses_them_alone(format: str, tmp_path: Path) -> None:
    if format == "rosinality":
        whole, part = small_rosinality(), without_noise_maps(small_rosinality(), ("noises.",))
        write_rosinality(tmp_path / "old", part)
        write_rosinality(tmp_path / "new", whole)
    else:
        whole, part = small_nvidia(), without_noise_maps(small_nvidia(), (".noise_const",))
        write_nvidia(tmp_path / "old", part)
        write_nvidia(tmp_path / "new", whole)
    assert 0 < len(part) < len(whole)
    old, new = (load_generator(tmp_path / name, noise="fixed(3)") for name in ("old", "new"))
    w = new.sample_latents(2, seed=0)
    assert torch.equal(old.sample_latents(2, seed=0), w)
    for noise in ("fixed(3)", "fixed(4)", "none"):
        images = new.configure(noise=noise).synthesize(w)
        assert torch.equal(old.configure(noise=noise).synthesize(w), images)
        assert not torch.equal(new.configure(noise="buffers").synthesize(w), images)
    assert old.configure(noise="random").synthesize(w).isfinite().all()
    assert any(line.startswith("noise maps: not in the file") for line in old.report)
    assert not any("noise maps" in line for line in new.report)
    for refused in (lambda: old.configure(noise="buffers"), lambda: old.synthesize(w, noise="buffers")):
        with pytest.raises(ValueError, match=r"found noise 'buffers' for a StyleGAN2 whose file holds no noise maps"):
            refused()
    with pytest.raises(ValueError, match="holds no noise maps"):
        load_generator(tmp_path / "old", noise="buffers")
    write_generator(read_generator(tmp_path / "old"), tmp_path / "own.safetensors")
    own = load_generator(tmp_path / "own.safetensors", noise="none")
    assert torch.equal(own.synthesize(w), old.configure(noise="none").synthesize(w))
    with pytest.raises(ValueError, match="holds no noise maps"):
        own.configure(noise="buffers")
    assert "noise_buffers" not in new.arguments  # so that folders of images made before go on


def test_some_noise_maps_are_no_maps_at_all(tmp_path: Path) -> None:
    state = small_rosinality()
    del state["noises.noise_3"]
    with pytest.raises(CheckpointError, match=r"found no tensor 'noises\.noise_3'"):
        read_rosinality(write_rosinality(tmp_path / "g.pt", state))


def test_a_network_trained_without_noise_or_mean_is_read(tmp_path: Path) -> None:
    state = without_noise_maps(small_nvidia(), (".noise_const", ".noise_strength", "mapping.w_avg"))
    write_nvidia(tmp_path / "g.pkl", state)
    generator = load_generator(tmp_path / "g.pkl", noise="fixed(0)", truncation=0.5)
    w = generator.sample_latents(2, seed=0)
    torch.testing.assert_close(generator.synthesize(w), generator.synthesize(w, noise="none"))
    assert any("the network was trained without" in line for line in generator.report)
    assert any("mean for truncation: not in the file, measured" in line for line in generator.report)
    mean = generator.configure(truncation=1.0).sample_latents(20_000, seed=9).mean(dim=0)
    assert float(((mean - generator.mapping.mean) / w.std()).abs().max()) < 0.1


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "module._orig_mod.", "generator."])
def test_prefixes_that_all_tensors_share_are_taken_off_and_told(prefix: str, tmp_path: Path) -> None:
    state = small_rosinality()
    wrapped = {f"{prefix}{name}": value for name, value in state.items()}
    plain = load_generator(write_rosinality(tmp_path / "plain.pt", state))
    w = plain.sample_latents(2, seed=0)
    write_rosinality(tmp_path / "wrapped.pt", wrapped)
    torch.save(wrapped, tmp_path / "bare.pt")
    torch.save({"state_dict": wrapped, "epoch": 3}, tmp_path / "nested.pt")
    for name in ("wrapped.pt", "bare.pt", "nested.pt"):
        generator = load_generator(tmp_path / name)
        assert torch.equal(generator.synthesize(w), plain.synthesize(w))
        assert f"prefix {prefix} of all {len(state)} tensors: taken off" in generator.report

    state = small_nvidia()
    plain = load_generator(write_nvidia(tmp_path / "plain.pkl", state, clamp=0.5))
    wrapped = {f"{prefix}{name}": value for name, value in state.items()}
    generator = load_generator(write_nvidia(tmp_path / "wrapped.pkl", wrapped, clamp=0.5, prefix=prefix))
    w = plain.sample_latents(2, seed=0)
    assert torch.equal(generator.synthesize(w), plain.synthesize(w))
    assert generator.arguments == plain.arguments
    assert f"prefix {prefix} of all {len(state)} tensors: taken off" in generator.report


def test_a_g_ema_of_another_family_is_named(tmp_path: Path) -> None:
    state = {
        "synthesis.input.freqs": torch.ones(2),
        "synthesis.input.phases": torch.ones(2),
        "mapping.fc0.bias": torch.ones(2),
    }
    with pytest.raises(CheckpointError, match=r"g\.pt: found a StyleGAN3 generator;"):
        load_generator(write_rosinality(tmp_path / "g.pt", state))


def test_no_message_holds_a_regular_expression(tmp_path: Path) -> None:
    state = {name: value for name, value in small_rosinality().items() if not name.startswith("style.")}
    with pytest.raises(
        CheckpointError, match=r"found no tensor named like 'style\.0\.weight'; its tensors are"
    ) as caught:
        read_rosinality(write_rosinality(tmp_path / "g.pt", state))
    assert not set("\\()^$+") & set(str(caught.value))


def test_a_grey_network_of_nvidia_is_read(tmp_path: Path) -> None:
    stored = read_nvidia(write_nvidia(tmp_path / "g.pkl", nvidia_state(8, width=4, depth=1, image_channels=1)))
    assert stored.arguments["image_channels"] == 1


def without(name: str) -> Callable[[State], None]:
    return lambda state: state.__delitem__(name)


def reshaped(name: str) -> Callable[[State], None]:
    return lambda state: state.__setitem__(name, torch.zeros(7, 7))


def extra(name: str) -> Callable[[State], None]:
    return lambda state: state.__setitem__(name, torch.zeros(3))


def asymmetric(name: str) -> Callable[[State], None]:
    return lambda state: state.__setitem__(name, torch.outer(torch.arange(1.0, 5.0), torch.arange(1.0, 5.0)))


@pytest.mark.parametrize(
    ("break_it", "message"),
    [
        (without("convs.1.noise.weight"), "found no tensor 'convs.1.noise.weight' among"),
        (without("input.input"), "found no tensor 'input.input' among"),
        (
            reshaped("convs.2.conv.weight"),
            r"found shape \(7, 7\) for tensor 'convs.2.conv.weight', expected \(8, 8, 3, 3\)",
        ),
        (extra("convs.1.gate"), "found 1 tensors that do not belong to this architecture: convs.1.gate"),
        (asymmetric("convs.0.conv.blur.kernel"), "filter 'convs.0.conv.blur.kernel' is no product of symmetric taps"),
    ],
)
def test_a_broken_rosinality_file_names_the_tensor(break_it: Callable, message: str, tmp_path: Path) -> None:
    state = small_rosinality()
    break_it(state)
    with pytest.raises(CheckpointError, match=r"g\.pt: " + message):
        read_rosinality(write_rosinality(tmp_path / "g.pt", state))


@pytest.mark.parametrize(
    ("break_it", "message"),
    [
        (without("synthesis.b8.conv0.bias"), "found no tensor 'synthesis.b8.conv0.bias' among"),
        (without("synthesis.b8.conv1.weight"), "the tensors describe no StyleGAN2: found 2 channel numbers for 16 px"),
        (reshaped("mapping.w_avg"), r"found shape \(7, 7\) for tensor 'mapping.w_avg', expected \(8,\)"),
        (extra("synthesis.b8.skip.weight"), "found 1 tensors that do not belong"),
        (extra("mapping.embed.weight"), "found a class-conditional StyleGAN2 generator, expected an unconditional one"),
    ],
)
def test_a_broken_nvidia_file_names_the_tensor(break_it: Callable, message: str, tmp_path: Path) -> None:
    state = small_nvidia()
    break_it(state)
    with pytest.raises(CheckpointError, match=r"g\.pkl: " + message):
        read_nvidia(write_nvidia(tmp_path / "g.pkl", state))


def test_another_architecture_of_nvidia_is_refused(tmp_path: Path) -> None:
    path = write_nvidia(tmp_path / "g.pkl", small_nvidia(), architecture="resnet")
    with pytest.raises(CheckpointError, match="found architecture 'resnet' at 4 px, expected 'skip'"):
        read_nvidia(path)


def test_other_contents_are_refused_with_what_was_found(tmp_path: Path) -> None:
    torch.save({"generator": small_rosinality(), "step": 3}, tmp_path / "g.pt")
    with pytest.raises(CheckpointError, match="found generator, step, expected 'g_ema'"):
        read_rosinality(tmp_path / "g.pt")
    with pytest.raises(CheckpointError, match="found generator, step, expected 'G_ema'"):
        read_nvidia(tmp_path / "g.pt")

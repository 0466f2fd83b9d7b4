"""LatentFingerprint: fits and keeps its fingerprint, trains a decoder, resumes."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import pytorch_lightning as pl
import torch
from dotted_settings import grouped
from tiny_fingerprints import write_vq

from datamodules.sample_numbers import SampleNumbersDataModule
from lightning_modules.fingerprints.decoders.networks import take_network
from lightning_modules.fingerprints.fingerprint import FingerprintError, read_fingerprint
from lightning_modules.fingerprints.marked_images import MarkedImages, runs
from lightning_modules.generators.checkpoints.own_file import write_generator
from lightning_modules.generators.checkpoints.stored import StoredGenerator
from lightning_modules.generators.stylegan2 import StyleGAN2Generator
from lightning_modules.latent_fingerprint import LatentFingerprint

SMALL = {"key.bits": 4, "key.shift": -4, "key.sigma": 3.0, "key.fit_latents": 300}
SMALL |= {"training.backbone": "test_resnet", "training.stem": "small"}


def written(path, seed=0):
    torch.manual_seed(seed)
    generator = StyleGAN2Generator(16, 12, 12, 2, [8, 8, 8])
    write_generator(StoredGenerator("stylegan2", generator.arguments, generator.state_dict(), {"format": "test"}), path)
    return str(path)


@pytest.fixture(scope="module")
def generator(tmp_path_factory):
    return written(tmp_path_factory.mktemp("generator") / "g.safetensors")


def fit(module, folder, epochs=1, checkpoint=None):
    data = SampleNumbersDataModule(train_images=64, val_images=10, batch_size=16)
    trainer = pl.Trainer(
        accelerator="cpu",
        default_root_dir=folder,
        max_epochs=epochs,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
    )
    trainer.fit(module, data, ckpt_path=checkpoint, weights_only=True)
    return trainer


def test_a_run_leaves_its_fingerprint_and_no_generator_in_the_checkpoint(generator, tmp_path):
    module = LatentFingerprint(generator, **grouped(SMALL))
    trainer = fit(module, tmp_path)
    fingerprint = read_fingerprint(tmp_path / "fingerprint.safetensors", module.fingerprint.generator)
    assert (fingerprint.bits, fingerprint.sigma, fingerprint.noise) == (4, 3.0, "fixed(0)")
    assert {name.split(".")[0] for name in module.state_dict()} == {"network"}
    scores = trainer.callback_metrics
    assert {"train/bit_accuracy", "val/clean/bit_accuracy", "val/attacked/bit_accuracy"} <= set(scores)
    path = tmp_path / "last.ckpt"
    trainer.save_checkpoint(path)
    content = torch.load(path, weights_only=True)
    assert torch.equal(content["fingerprint"]["mean"], fingerprint.mean)
    assert not any("synthesis" in name for name in content["state_dict"])


def test_a_secret_turns_the_axes_and_the_run_is_its_owners_alone(generator, tmp_path):
    secret = tmp_path / "secret"
    secret.write_text("5e" * 32)
    secret.chmod(0o600)
    turned = SMALL | {"key.secret": str(secret), "key.window": 6, "key.shift": 2}
    module = LatentFingerprint(generator, **grouped(turned))
    trainer = fit(module, tmp_path / "a")
    trainer.save_checkpoint(tmp_path / "last.ckpt")
    file = tmp_path / "a" / "fingerprint.safetensors"
    assert [path.stat().st_mode & 0o777 for path in (file, file.parent)] == [0o600, 0o700]
    plain = LatentFingerprint(generator, **grouped(SMALL | {"key.shift": 2}))
    fit(plain, tmp_path / "b")
    assert (module.fingerprint.key_axes @ plain.fingerprint.key_axes.mT).abs().max() < 0.999
    assert "5e5e" not in str(torch.load(tmp_path / "last.ckpt", weights_only=True)["hyper_parameters"])
    secret.unlink()  # only the drawing needs it
    found = LatentFingerprint.load_from_checkpoint(tmp_path / "last.ckpt")
    assert found.fingerprint.id == module.fingerprint.id
    with pytest.raises(ValueError, match=r"found no file .*secret, expected a secret"):
        fit(LatentFingerprint(generator, **grouped(turned)), tmp_path / "c")
    another = LatentFingerprint(generator, fingerprint=str(file), **grouped(SMALL | {"key.shift": 2}))
    fit(another, tmp_path / "d")  # another decoder for the same keys is as private
    assert (tmp_path / "d" / "fingerprint.safetensors").stat().st_mode & 0o777 == 0o600


def test_a_resumed_run_keeps_the_fingerprint_of_its_checkpoint(generator, tmp_path):
    first = LatentFingerprint(generator, **grouped(SMALL))
    trainer = fit(first, tmp_path / "a")
    trainer.save_checkpoint(tmp_path / "last.ckpt")
    second = LatentFingerprint(generator, **grouped(SMALL | {"key.fit_latents": 50}))
    resumed = fit(second, tmp_path / "b", epochs=2, checkpoint=tmp_path / "last.ckpt")
    assert torch.equal(second.training_stream.fingerprint.key_axes, first.fingerprint.key_axes)
    kept = read_fingerprint(tmp_path / "b" / "fingerprint.safetensors")
    assert torch.equal(kept.mean, first.fingerprint.mean)
    assert resumed.global_step == 8


def test_a_fingerprint_file_is_used_and_one_of_another_generator_refused(generator, tmp_path):
    fit(LatentFingerprint(generator, **grouped(SMALL)), tmp_path)
    file = str(tmp_path / "fingerprint.safetensors")
    module = LatentFingerprint(generator, fingerprint=file, training={"backbone": "test_resnet", "stem": "small"})
    assert module.network.bits == 4
    other = written(tmp_path / "other.safetensors", seed=1)
    with pytest.raises(FingerprintError, match=r"found a fingerprint of generator .*g\.safetensors"):
        LatentFingerprint(other, fingerprint=file)


def test_the_noise_of_a_fingerprint_is_taken_and_another_refused(generator, tmp_path):
    first = LatentFingerprint(generator, options={"noise": "fixed(7)"}, **grouped(SMALL))
    fit(first, tmp_path).save_checkpoint(tmp_path / "last.ckpt")
    file = str(tmp_path / "fingerprint.safetensors")
    content = torch.load(tmp_path / "last.ckpt", weights_only=True)
    small = {"training.backbone": "test_resnet", "training.stem": "small"}
    by_file = LatentFingerprint(generator, fingerprint=file, **grouped(small))
    by_checkpoint = LatentFingerprint(generator, **grouped(SMALL))
    assert by_checkpoint.generator.noise == "fixed(0)"
    by_checkpoint.on_load_checkpoint(content)
    for module in (by_file, by_checkpoint):
        assert module.generator.noise == "fixed(7)"
    other = {"noise": "fixed(1)"}
    with pytest.raises(FingerprintError, match=r"found a generator with noise 'fixed\(1\)', expected 'fixed\(7\)'"):
        LatentFingerprint(generator, options=other, fingerprint=file, **grouped(small))
    with pytest.raises(FingerprintError, match="leave the option out"):
        LatentFingerprint(generator, options=other, **grouped(SMALL)).on_load_checkpoint(content)


def test_a_checkpoint_suffices_where_its_fingerprints_file_is_gone(generator, tmp_path):
    fit(LatentFingerprint(generator, **grouped(SMALL)), tmp_path / "a")
    file = tmp_path / "a" / "fingerprint.safetensors"
    settings = {
        "fingerprint": str(file),
        "training.backbone": "test_resnet",
        "training.stem": "small",
    }  # bits are the file's
    first = LatentFingerprint(generator, **grouped(settings))
    fit(first, tmp_path / "b").save_checkpoint(tmp_path / "last.ckpt")
    file.unlink()
    again = LatentFingerprint.load_from_checkpoint(tmp_path / "last.ckpt", weights_only=True)
    assert torch.equal(again.fingerprint.key_axes, first.fingerprint.key_axes)
    images = torch.rand(2, 3, 16, 16)
    assert torch.equal(again.network.eval()(images)[0], first.network.eval()(images)[0])
    fit(LatentFingerprint(generator, **grouped(settings | {"key.bits": 2})), tmp_path / "c", 2, tmp_path / "last.ckpt")
    with pytest.raises(FingerprintError, match="found no file"):
        fit(LatentFingerprint(generator, **grouped(settings | {"key.bits": 2, "key.shift": -2})), tmp_path / "d")
    assert not (tmp_path / "d" / "fingerprint.safetensors").exists()


def test_a_key_that_does_not_fit_is_refused_before_anything_runs(generator):
    with pytest.raises(ValueError, match="expected at least 1 bit within 12 axes"):
        LatentFingerprint(generator)


def test_a_decoder_learns_to_read_keys(generator, tmp_path):
    pl.seed_everything(0, verbose=False)
    settings = SMALL | {"training.attack": "identity", "training.learning_rate": 3e-3, "key.sigma": 12.0}
    module = LatentFingerprint(generator, **grouped(settings))
    data = SampleNumbersDataModule(train_images=1280, val_images=100, batch_size=32)
    trainer = pl.Trainer(
        accelerator="cpu",
        default_root_dir=tmp_path,
        max_epochs=2,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
    )
    trainer.fit(module, data)
    assert float(trainer.callback_metrics["val/clean/bit_accuracy"]) > 0.7


def test_marked_samples_follow_from_their_number(generator, tmp_path):
    module = LatentFingerprint(generator, **grouped(SMALL))
    fit(module, tmp_path)
    marked: MarkedImages = module.training_stream
    together = marked.make(torch.tensor([5, 6, 7, 40]))
    alone = marked.make(torch.tensor([40]))
    assert torch.equal(together.keys[3:], alone.keys)
    assert torch.allclose(together.images[3:], alone.images, atol=1e-5)
    assert torch.allclose(together.alpha[3:], alone.alpha, atol=1e-4)
    assert runs(torch.tensor([5, 6, 7, 40, 2, 3])) == [(5, 8), (40, 41), (2, 4)]
    banked = MarkedImages(module.generator, module.fingerprint, bank=torch.randn(3, 12))
    assert torch.equal(banked.make(torch.tensor([1])).latents, banked.make(torch.tensor([4])).latents)
    assert not torch.equal(banked.make(torch.tensor([1])).keys, banked.make(torch.tensor([4])).keys)


def test_a_training_begins_with_the_network_of_another(generator, tmp_path):
    first = LatentFingerprint(generator, **grouped(SMALL))
    fit(first, tmp_path / "first").save_checkpoint(tmp_path / "first.ckpt")
    start = str(tmp_path / "first.ckpt")
    more = {"key.centred": True, "training.start": start}
    more |= {"training.learning_rate": 1e-30, "training.weight_decay": 0.0}
    still = LatentFingerprint(generator, **grouped(SMALL | more))
    fit(still, tmp_path / "second").save_checkpoint(tmp_path / "second.ckpt")
    for name, value in first.network.named_parameters():
        assert torch.equal(still.network.get_parameter(name), value), name
    content = torch.load(start, weights_only=True)
    content["state_dict"] = {  # as a training whose network was compiled writes it
        name.replace("network.", "network._orig_mod.", 1): value for name, value in content["state_dict"].items()
    }
    torch.save(content, start)
    compiled = LatentFingerprint(generator, **grouped(SMALL))
    take_network(compiled.network, Path(start))
    for name, value in first.network.named_parameters():
        assert torch.equal(compiled.network.get_parameter(name), value), name


def test_a_training_for_longer_keys_begins_with_the_backbone_of_another(generator, tmp_path):
    first = LatentFingerprint(generator, **grouped(SMALL))
    fit(first, tmp_path / "first").save_checkpoint(tmp_path / "first" / "checkpoints" / "last.ckpt")
    more = {"key.bits": 3, "training.start": str(tmp_path / "first")}  # a run folder
    still = {"training.learning_rate": 1e-30, "training.weight_decay": 0.0}
    longer = LatentFingerprint(generator, **grouped(SMALL | more | still))
    with pytest.warns(UserWarning, match=r"its backbone is taken, and what reads the 3 bits begins anew"):
        fit(longer, tmp_path / "second")
    for name, value in first.network.named_parameters():
        own = longer.network.get_parameter(name)
        assert name.startswith("heads.") != (own.shape == value.shape and torch.equal(own, value)), name


def test_a_fingerprint_that_ships_is_known_by_its_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("ldm64", "ldm64/fingerprint.safetensors"):
        module = LatentFingerprint("score-ldm", fingerprint=name)
        assert (module.fingerprint.bits, module.fingerprint.shift) == (64, 36)


@pytest.mark.parametrize(
    ("key", "told"),
    [
        ({"key.bits": 5}, "found key.bits 5 (4 in the fingerprint), expected the key of the fingerprint"),
        ({"key.sigma": 2.0, "key.centred": True}, "key.sigma 2.0 (3.0 in the fingerprint), key.centred True (False"),
        ({"key.shift": -6}, "found key.shift -6 (-4 in the fingerprint)"),
        ({"key.secret": "a file", "key.window": 6}, "found key.secret or key.window (public axes in the fingerprint)"),
        ({"key.shift": 8, "key.fit_latents": 20}, ""),  # of 12 axes: the same, counted from the other end
    ],
)
def test_settings_of_a_key_that_contradict_a_fingerprint_are_refused(generator, tmp_path, key, told):
    fit(LatentFingerprint(generator, **grouped(SMALL)), tmp_path / "a")
    more = LatentFingerprint(generator, fingerprint=str(tmp_path / "a"), **grouped(SMALL | key))
    if not told:
        fit(more, tmp_path / "b")
        return
    with pytest.raises(ValueError, match=re.escape(told)):
        fit(more, tmp_path / "b")


def test_what_a_test_alone_needs_is_looked_at_before_the_training(generator, tmp_path):
    module = LatentFingerprint(generator, **grouped(SMALL | {"test.features": "fashoin_cnn"}))
    with pytest.raises(ValueError, match="features are 'fashoin_cnn'; did you mean fashion_cnn"):
        fit(module, tmp_path)
    assert module.fingerprint is None
    with pytest.raises(ValueError, match="found registration 'flipp'; did you mean flip"):
        LatentFingerprint(generator, **grouped(SMALL | {"decoder.options": {"registrations": ["flipp"]}}))


@pytest.mark.parametrize("backbone", ["encoder", "test_resnet"])
def test_corrections_are_trained_read_back_and_gone_on_with(backbone, tmp_path):
    """The fingerprint that gives the first weights is known after the fit, or from the checkpoint."""
    generator = write_vq(tmp_path / "g.safetensors")
    asked = SMALL | {"key.sigma": 0.5, "training.backbone": backbone, "training.corrections": 1, "training.bank": 40}
    module = LatentFingerprint(generator, **grouped(asked))
    fit(module, tmp_path / "first").save_checkpoint(tmp_path / "first.ckpt")
    read = LatentFingerprint.load_from_checkpoint(tmp_path / "first.ckpt").eval()
    assert {name.split(".")[0] for name in read.state_dict()} == {"network"}
    images = module.training_stream.make(torch.arange(3)).images.clamp(0, 1)
    logits, alpha = module.eval().network(images)
    assert torch.equal(read.network(images)[0], logits)
    assert torch.equal(read.network(images)[1], alpha)
    estimate = read.key_decoder().decode(images)
    assert torch.allclose(estimate.logits, logits, atol=1e-5)
    start = {"training.start": str(tmp_path / "first.ckpt"), "training.learning_rate": 1e-30}
    more = LatentFingerprint(generator, **grouped(asked | start | {"training.weight_decay": 0.0}))
    fit(more, tmp_path / "second")
    for name, value in module.network.named_parameters():
        assert torch.equal(more.network.get_parameter(name), value), name


def test_a_resumed_training_goes_on_with_its_own_network(generator, tmp_path):
    first, other = (
        LatentFingerprint(generator, **grouped(SMALL | {"training.learning_rate": rate})) for rate in (1e-3, 1e-2)
    )
    fit(first, tmp_path / "first").save_checkpoint(tmp_path / "first.ckpt")
    fit(other, tmp_path / "other").save_checkpoint(tmp_path / "other.ckpt")
    resumed = LatentFingerprint(generator, **grouped(SMALL | {"training.start": str(tmp_path / "first.ckpt")}))
    fit(resumed, tmp_path / "resumed", checkpoint=tmp_path / "other.ckpt")  # whose one epoch is done: no step is left
    for name, value in other.network.named_parameters():
        assert torch.equal(resumed.network.get_parameter(name), value), name


def test_a_start_that_does_not_fit_is_refused_before_anything_is_fitted(generator, tmp_path):
    first = LatentFingerprint(generator, **grouped(SMALL))
    fit(first, tmp_path / "first").save_checkpoint(tmp_path / "first.ckpt")
    more = LatentFingerprint(
        generator, **grouped(SMALL | {"training.stem": "patch", "training.start": str(tmp_path / "first.ckpt")})
    )
    with pytest.raises(ValueError, match=r"first\.ckpt: found no tensor for backbone\..* the same backbone, stem"):
        fit(more, tmp_path / "more")
    assert more.fingerprint is None
    with pytest.raises(FileNotFoundError, match="gone"):
        fit(
            LatentFingerprint(generator, **grouped(SMALL | {"training.start": str(tmp_path / "gone.ckpt")})),
            tmp_path / "gone",
        )


def test_a_checkpoint_of_another_version_is_refused(generator, tmp_path):
    module = LatentFingerprint(generator, **grouped(SMALL))
    fit(module, tmp_path).save_checkpoint(tmp_path / "last.ckpt")
    content = torch.load(tmp_path / "last.ckpt", weights_only=True)
    del content["fingerprint"]["centred"]
    with pytest.raises(FingerprintError, match=r"another version of this project \(its fingerprint differs in centred"):
        LatentFingerprint(generator, **grouped(SMALL)).on_load_checkpoint(content)


def test_a_checkpoint_of_settings_side_by_side_is_read_as_one_of_today(generator, tmp_path):
    """As version 0.1 wrote it."""
    first = LatentFingerprint(generator, **grouped(SMALL | {"key.centred": True}))
    fit(first, tmp_path).save_checkpoint(tmp_path / "last.ckpt")
    content = torch.load(tmp_path / "last.ckpt", weights_only=True)
    groups = {name: content["hyper_parameters"].pop(name) for name in ("key", "training", "decoder", "test")}
    stored = {**groups["key"], **groups["training"], "decoder": "amortised", "decoder_options": None}
    content["hyper_parameters"] |= stored
    torch.save(content, tmp_path / "earlier.ckpt")
    again = LatentFingerprint.load_from_checkpoint(tmp_path / "earlier.ckpt", weights_only=True)
    assert again.key == first.key
    assert again.hparams == first.hparams
    for name, value in first.network.named_parameters():
        assert torch.equal(again.network.get_parameter(name), value), name

"""Which latents a training meets, when its network is calibrated, and what noise an attributor renders with."""

from __future__ import annotations

import shutil

import pytest
import pytorch_lightning as pl
import torch
from dotted_settings import grouped
from png_files import save_png
from pytorch_lightning.callbacks import Callback
from tiny_fingerprints import BITS, read_metrics, write_config, write_stylegan2, write_vq

import evaluate
import train
from datamodules.sample_numbers import FIRST, SampleNumbersDataModule
from lightning_modules.common.images import to_uint8
from lightning_modules.fingerprints.marked_images import MarkedImages
from lightning_modules.fingerprints.users.key_registry import KeyRegistry, write_registry
from lightning_modules.generators import load_generator
from lightning_modules.latent_fingerprint import LatentFingerprint

SMALL = {
    "key.bits": 4,
    "key.shift": -4,
    "key.sigma": 3.0,
    "key.fit_latents": 300,
    "training.backbone": "test_resnet",
    "training.stem": "small",
}


def fit(module, folder, callback, test=False):
    data = SampleNumbersDataModule(train_images=32, val_images=10, batch_size=16, test_images=6, negative_images=0)
    trainer = pl.Trainer(
        accelerator="cpu",
        default_root_dir=folder,
        max_epochs=1,
        logger=False,
        callbacks=[callback],
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
        use_distributed_sampler=False,
        inference_mode=False,
    )
    trainer.fit(module, data)
    if test:
        trainer.test(module, data, verbose=False)


def rows_among(latents, bank):
    """Whether each latent is one of the bank."""
    return torch.cdist(latents.double(), bank.double()).min(dim=1).values < 1e-6


def test_training_latents_are_the_banks_and_those_of_validation_and_test_are_new(tmp_path, monkeypatch):
    module = LatentFingerprint(write_vq(tmp_path / "g.safetensors"), **grouped(SMALL | {"training.bank": 20}))
    seen: dict[str, list[torch.Tensor]] = {"train": [], "val": [], "test": []}
    make = MarkedImages.make

    def recorded(stream, samples):
        made = make(stream, samples)
        split = "test" if samples[0] >= FIRST["test"] else "val" if samples[0] >= FIRST["val"] else "train"
        seen[split].append(made.latents)
        return made

    monkeypatch.setattr(MarkedImages, "make", recorded)
    fit(module, tmp_path, Callback(), test=True)
    bank = module.generator.sample_latents(20, 1)
    latents = {split: torch.cat(parts) for split, parts in seen.items()}
    assert len(latents["train"]) == 32
    assert rows_among(latents["train"], bank).all()
    for split in ("val", "test"):
        assert len(latents[split]) >= 6
        assert not rows_among(latents[split], bank).any()
        assert not rows_among(latents[split], latents["train"]).any()


class Watcher(Callback):
    """Temperature and training logits around a validation."""

    def __init__(self):
        self.temperatures = []
        self.images = torch.rand(5, 3, 32, 32, generator=torch.Generator().manual_seed(0))

    def outputs(self, network):
        mode = network.training
        state = {name: value.clone() for name, value in network.state_dict().items()}
        network.train()
        with torch.no_grad():
            logits, alpha = network(self.images)
        network.load_state_dict(state)  # batch normalisation counts what it sees
        network.train(mode)
        return logits, alpha

    def on_validation_start(self, trainer, module):
        self.temperatures.append(float(module.network.log_temperature))
        self.before = self.outputs(module.network)

    def on_validation_end(self, trainer, module):
        self.temperatures.append(float(module.network.log_temperature))
        self.after = self.outputs(module.network)


def test_a_validation_calibrates_and_leaves_training_outputs_as_they_are(tmp_path):
    module = LatentFingerprint(
        write_stylegan2(tmp_path / "g.safetensors"), **grouped(SMALL | {"training.attack": "identity"})
    )
    watcher = Watcher()
    fit(module, tmp_path, watcher)
    first_start, first_end, *last = watcher.temperatures
    assert first_start == first_end == 0.0  # Lightning's sanity check calibrates nothing
    assert last[0] == 0.0
    assert last[1] != 0.0
    for before, after in zip(watcher.before, watcher.after, strict=True):
        assert torch.equal(before, after)
    network, images = module.network.train(), watcher.images
    trained, _ = network(images)
    network.eval()
    scaled, _ = network(images)
    network.log_temperature.zero_()
    plain, _ = network(images)
    assert torch.allclose(scaled * torch.tensor(last[1]).exp(), plain, rtol=1e-4, atol=1e-6)
    assert torch.isfinite(trained).all()


def test_the_attributors_noise_changes_what_it_renders_and_no_marked_image(stylegan2):
    settings = SMALL | {"decoder.name": "paper", "decoder.options": {"starts": 1, "steps": 1}}
    module = LatentFingerprint(stylegan2, **grouped(settings))
    unknown = LatentFingerprint(stylegan2, **grouped(settings | {"decoder.noise": "fixed(7)"}))
    numbers = torch.tensor([3, 4])
    marked = [one._fresh().make(numbers) for one in (module, unknown)]
    assert torch.equal(marked[0].images, marked[1].images)
    latents = marked[0].latents
    same, other = (one.key_decoder().synthesize(latents) for one in (module, unknown))
    assert torch.equal(same, module.generator.synthesize(latents))
    assert float((same - other).abs().mean()) > 1e-3
    assert torch.equal(unknown.generator.synthesize(latents), same)  # its own generator keeps its noise


def test_quality_does_not_depend_on_the_attributors_noise(run, tmp_path):
    few = ["--model.init_args.decoder.name=paper", "--model.init_args.decoder.options={starts: 1, steps: 2}"]
    few += ["--model.init_args.test_attacks=[]", "--data.init_args.test_images=4", "--data.init_args.negative_images=0"]
    found = []
    for noise in ("null", "fixed(7)"):
        folder = tmp_path / noise.strip("()")
        options = ["--run_dir", str(folder), f"--model.init_args.decoder.noise={noise}", *few]
        evaluate.main(["test", "--ckpt_path", str(run), *options])
        found.append(read_metrics(folder))
    assert found[0]["test/quality/psnr"] == found[1]["test/quality/psnr"]
    assert found[0]["test/clean/cross_entropy"] != found[1]["test/clean/cross_entropy"]


def test_a_module_asks_for_gradients_and_gets_them(tmp_path):
    """Lightning would test in inference mode, where an inversion has no gradients."""
    assert LatentFingerprint.needs_gradients
    config = write_config(
        tmp_path,
        write_vq(tmp_path / "g.safetensors"),
        **{"decoder.name": "inversion", "decoder.options": {"iterations": 1}},
        **{"test_attacks": [], "test.other_generator": None},
        data={"negative_images": 0, "test_images": 2},
    )
    train.main(["--config", str(config), "--run_dir", str(tmp_path / "r"), "--trainer.max_epochs", "0"])
    assert read_metrics(tmp_path / "r")["test/clean/bit_accuracy"]["n"] > 0


@pytest.mark.parametrize("command", ["test", "predict"])
def test_a_decoder_whose_weights_are_no_numbers_gives_an_error_and_no_verdict(run, stylegan2, tmp_path, command):
    saved = torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)
    weight = next(name for name in saved["state_dict"] if name.startswith("network.") and "weight" in name)
    saved["state_dict"][weight].view(-1)[0] = float("nan")
    (tmp_path / "checkpoints").mkdir()
    torch.save(saved, tmp_path / "checkpoints" / "last.ckpt")
    shutil.copy(run / "config.yaml", tmp_path / "config.yaml")
    options = ["--run_dir", str(tmp_path / "r")]
    if command == "predict":
        generator = load_generator(stylegan2)
        (image,) = to_uint8(generator.synthesize(generator.sample_latents(1, seed=5)))
        save_png(tmp_path / "a.png", image.permute(1, 2, 0).numpy())
        registry = KeyRegistry(BITS)
        registry.create("alice")
        write_registry(registry, tmp_path / "users.json")
        options = ["--images", str(tmp_path / "a.png"), "--registry", str(tmp_path / "users.json")]
        options += ["--out", str(tmp_path / "out.jsonl")]
    with pytest.raises(ValueError, match=r"found logits.*that are not finite .* look at the weights of the decoder"):
        evaluate.main([command, "--ckpt_path", str(tmp_path), *options])
    assert not (tmp_path / "out.jsonl").exists()

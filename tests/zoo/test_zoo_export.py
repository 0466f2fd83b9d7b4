"""A checkpoint becomes a bundled source that gives the images of the averaged generator."""

from __future__ import annotations

import pytest
import pytorch_lightning as pl
import torch
import yaml
from torch.utils.data import DataLoader, TensorDataset

from lightning_modules import zoo
from lightning_modules.generators.bundled.load import load_bundled
from lightning_modules.generators.bundled.manifest import bundled_sources, manifest_entry, read_manifest, shipped_images
from lightning_modules.generators.image_writing import synthesize_block
from lightning_modules.zoo.export import export, load_training


class Batches(DataLoader):
    def __iter__(self):
        for (images,) in super().__iter__():
            yield {"image": images}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run folder as train.py leaves it."""
    folder = tmp_path_factory.mktemp("run")
    pl.seed_everything(7, verbose=False)
    module = zoo.DCGAN(latent_dim=8, width=8)
    trainer = pl.Trainer(
        accelerator="cpu",
        default_root_dir=folder,
        max_epochs=1,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
    )
    trainer.fit(module, Batches(TensorDataset(torch.rand(24, 3, 32, 32)), batch_size=8))
    (folder / "checkpoints").mkdir()
    trainer.save_checkpoint(folder / "checkpoints" / "last.ckpt")
    config = {
        "seed_everything": 7,
        "model": {"class_path": "lightning_modules.zoo.DCGAN"},
        "data": {"init_args": {"name": "fashion", "batch_size": 8}},
    }
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    return folder, module


def test_exported_source_is_the_averaged_generator(run, tmp_path):
    folder, module = run
    assert export(folder / "checkpoints" / "last.ckpt", tmp_path, images=32) == "gan-dcgan"
    entry = read_manifest(tmp_path)["gan-dcgan"]
    assert (entry["seed"], entry["steps"], entry["batch_size"]) == (7, 3, 8)
    assert entry["training_set"] == "fashion (train)"
    assert entry["arguments"] == {"latent_dim": 8, "width": 8, "image_channels": 1}

    loaded = load_bundled("gan-dcgan", tmp_path)
    latents = loaded.sample_latents(4, seed=0)
    with module.averaged_generator() as generator, torch.no_grad():
        expected = generator.synthesize(latents)
    torch.testing.assert_close(loaded.synthesize(latents), expected, atol=2e-3, rtol=0)  # half precision of weights
    block = synthesize_block(loaded, 0, 0)[:, 0, 2:-2, 2:-2].numpy()
    assert (shipped_images("gan-dcgan", 0, tmp_path) == block).all()


def test_other_entries_of_the_manifest_stay(run, tmp_path):
    folder, _ = run
    (tmp_path / "sources.yaml").write_text("vae-other: {family: vae}\n")
    export(folder / "checkpoints" / "last.ckpt", tmp_path)
    assert read_manifest(tmp_path)["vae-other"] == {"family": "vae"}
    assert "images" not in read_manifest(tmp_path)["gan-dcgan"]


def test_a_generator_of_an_unfinished_training_is_called_that(run, tmp_path, capsys):
    folder, _ = run
    saved = torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "config.yaml").write_text((folder / "config.yaml").read_text())
    for epochs, told in ((3, "warning: Unfinished training: the weights are those after epoch 3 of 10.\n"), (10, "")):
        training = {"epochs": epochs, "max_epochs": 10, "steps": 3 * epochs, "max_steps": -1, "stopped": False}
        torch.save({**saved, "training": training}, tmp_path / "checkpoints" / "last.ckpt")
        export(tmp_path / "checkpoints" / "last.ckpt", tmp_path / "out")
        assert capsys.readouterr().err == told


def test_a_second_seed_has_a_name_of_its_own_and_names_its_network(run, tmp_path):
    folder, _ = run
    checkpoint = folder / "checkpoints" / "last.ckpt"
    assert export(checkpoint, tmp_path / "small", licence="Apache-2.0", name="gan-dcgan-seed2") == "gan-dcgan-seed2"
    export(checkpoint, tmp_path / "small")
    (tmp_path / "sources.yaml").write_text("{}\n")
    entry, place = manifest_entry("small/gan-dcgan-seed2", tmp_path)
    assert (entry["network"], entry["licence"], entry["weights"]) == (
        "gan-dcgan",
        "Apache-2.0",
        "gan-dcgan-seed2.safetensors",
    )
    assert (place / entry["weights"]).is_file()
    assert bundled_sources(tmp_path) == ["small/gan-dcgan", "small/gan-dcgan-seed2"]
    latents = torch.randn(2, 8)
    first, second = (load_bundled(f"small/{name}", tmp_path) for name in ("gan-dcgan", "gan-dcgan-seed2"))
    assert torch.equal(first.synthesize(latents), second.synthesize(latents))
    for name in ("dcgan", "vae-dcgan", "gan-../up"):
        with pytest.raises(ValueError, match=r"expected gan-MODEL, such as gan-dcgan"):
            export(checkpoint, tmp_path / "other", name=name)
    assert not (tmp_path / "other").exists()


def test_a_source_in_colour_ships_whole_images(tmp_path):
    pl.seed_everything(7, verbose=False)
    module = zoo.DCGAN(latent_dim=8, width=8, image_channels=3)
    (tmp_path / "checkpoints").mkdir()
    saved = {"state_dict": module.state_dict(), "hyper_parameters": dict(module.hparams)}
    torch.save(saved, tmp_path / "checkpoints" / "last.ckpt")
    data = {"init_args": {"name": "emoji", "batch_size": 8}}
    config = {"seed_everything": 7, "model": {"class_path": "lightning_modules.zoo.DCGAN"}, "data": data}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    export(tmp_path / "checkpoints" / "last.ckpt", tmp_path / "out", images=32)
    block = synthesize_block(load_bundled("gan-dcgan", tmp_path / "out"), 0, 0)
    shipped = shipped_images("gan-dcgan", 0, tmp_path / "out")
    assert shipped.shape == (32, 32, 32, 3)
    assert (shipped == block.permute(0, 2, 3, 1).numpy()).all()
    assert shipped_images("gan-dcgan", 1, tmp_path / "out").shape == (0, 32, 32, 3)


def test_a_generator_file_is_framed_for_garments_alone(tmp_path):
    pl.seed_everything(7, verbose=False)
    module = zoo.StyleGAN2(latent_dim=8, mapping_layers=2, channel_base=128, channel_max=4)
    latents = torch.randn(2, 8)
    for name in ("emoji", "fashion"):
        run = tmp_path / name
        (run / "checkpoints").mkdir(parents=True)
        saved = {"state_dict": module.state_dict(), "hyper_parameters": dict(module.hparams)}
        torch.save(saved, run / "checkpoints" / "last.ckpt")
        data = {"init_args": {"name": name, "batch_size": 8}}
        config = {"seed_everything": 7, "model": {"class_path": "lightning_modules.zoo.StyleGAN2"}, "data": data}
        (run / "config.yaml").write_text(yaml.safe_dump(config))
        export(run / "checkpoints" / "last.ckpt", run)
        images = load_bundled("gan-stylegan2", run).synthesize(latents)
        assert (images[:, :, 0] == 0).all() == (name == "fashion")
        assert torch.equal(images[:, 0], images[:, 1]) == (name == "fashion")


def test_what_cannot_be_exported_is_refused(run, tmp_path):
    folder, _ = run
    checkpoint = folder / "checkpoints" / "last.ckpt"
    with pytest.raises(ValueError, match="multiple of"):
        export(checkpoint, tmp_path, images=5)
    with pytest.raises(ValueError, match=r"found a run of os\.system, expected one of"):
        load_training("os.system", checkpoint)
    with pytest.raises(FileNotFoundError, match=r"config\.yaml"):
        export(tmp_path / "a" / "b" / "last.ckpt", tmp_path)
    assert not list(tmp_path.iterdir())

"""Every LightningModule of the zoo trains, resumes, shows its samples and comes from a config that the CLI accepts."""

from __future__ import annotations

from pathlib import Path

import pytest
import pytorch_lightning as pl
import torch
import yaml
from torch.utils.data import DataLoader, Dataset

from datamodules.real import load_real_set
from lightning_modules import zoo
from lightning_modules.generators.bundled.load import NETWORKS
from lightning_modules.generators.small_networks.base import add_frame

CONFIGS = Path(__file__).parents[2] / "configs" / "zoo"
SMALL = {
    "DCGAN": {"latent_dim": 8, "width": 8},
    "WGANGP": {"latent_dim": 8, "width": 8, "critic_width": 8, "critic_updates": 1},
    "BetaVAE": {"latent_dim": 4, "width": 4, "encoder_width": 4},
    "RealNVP": {"leading": 8, "couplings": 2, "hidden": 8, "warmup": 1},
    "DDPM": {"channels": [8, 32], "sampling_steps": 2, "warmup": 1},
    "StyleGAN2": {"image_channels": 1, "latent_dim": 8, "mapping_layers": 2, "channel_base": 128, "channel_max": 4},
    "LatentDiffusion": {
        "first_stage_channels": [8, 8, 8],
        "codes": 8,
        "unet_channels": [16, 16],
        "sampling_steps": 2,
        "first_stage_updates": 1,
        "warmup": 1,
    },
}


class Garments(Dataset):
    """Real garments, as `RealImagesDataModule` gives them."""

    def __init__(self, n):
        pictures = load_real_set("fashion_sample", split="train").pictures
        self.images = torch.stack([torch.from_numpy(pictures[i]).permute(2, 0, 1) / 255 for i in range(n)])

    def __len__(self):
        return len(self.images)

    def __getitem__(self, index):
        return {"image": self.images[index]}


@pytest.fixture(scope="module")
def garments():
    return Garments(1600)


@pytest.fixture(params=zoo.__all__)
def module(request):
    pl.seed_everything(0, verbose=False)
    return getattr(zoo, request.param)(**SMALL[request.param])


def fit(module, garments, folder, epochs, checkpoint=None):
    loader = DataLoader(garments, batch_size=200)
    trainer = pl.Trainer(
        accelerator="cpu",
        default_root_dir=folder,
        max_epochs=epochs,
        limit_train_batches=2,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(module, loader, ckpt_path=checkpoint, weights_only=True)
    return trainer


def weights(module):
    return torch.cat([p.detach().flatten().clone() for p in module.parameters()])


def test_trains_and_shows_samples(module, garments, tmp_path):
    before = weights(module)
    trainer = fit(module, garments, tmp_path, epochs=1)
    after = weights(module)
    assert torch.isfinite(after).all()
    losses = {name: float(value) for name, value in trainer.callback_metrics.items()}
    assert losses
    assert all(name.startswith("train/") for name in losses)
    assert all(abs(value) < 1e4 for value in losses.values())
    assert not torch.equal(before, after)
    assert module.updates == 2
    with module.averaged_generator() as generator:
        assert not generator.training
        averaged = weights(generator)
    assert not torch.equal(averaged, weights(module.generator))  # an average, not the last weights
    assert [path.name for path in (tmp_path / "samples").iterdir()] == ["0000002.png"]


def test_resumes_where_it_stopped(module, garments, tmp_path):
    trainer = fit(module, garments, tmp_path / "first", epochs=1)
    checkpoint = tmp_path / "last.ckpt"
    trainer.save_checkpoint(checkpoint)
    stopped_at = weights(module)

    resumed = type(module)(**SMALL[type(module).__name__])
    starts = []
    resumed.on_train_epoch_start = lambda: starts.append((resumed.trainer.current_epoch, weights(resumed)))
    fit(resumed, garments, tmp_path / "second", epochs=2, checkpoint=checkpoint)
    assert [epoch for epoch, _ in starts] == [1]
    assert torch.equal(starts[0][1], stopped_at)
    assert resumed.updates == 4
    assert not torch.equal(weights(resumed), stopped_at)


def test_hyperparameters_are_plain_and_name_the_generator(module):
    assert set(module.generator_arguments) <= set(module.hparams)
    assert all(isinstance(value, int | float | list | tuple | None) for value in module.hparams.values())
    assert (module.source in NETWORKS) != bool(module.kind)  # shipped as bare weights, or as a generator file


def test_losses_fall(garments, tmp_path):
    pl.seed_everything(0, verbose=False)
    module = zoo.BetaVAE(latent_dim=4, width=4, encoder_width=4, learning_rate=3e-3)
    batch = {"image": garments.images[:64]}
    module.log_dict = lambda *args, **kwargs: None
    optimiser = module.configure_optimizers()
    first = float(module.training_step(batch, 0).detach())
    for _ in range(30):
        optimiser.zero_grad()
        loss = module.training_step(batch, 0)
        loss.backward()
        optimiser.step()
    assert float(loss.detach()) < 0.8 * first


def test_flow_needs_more_images_than_axes(tmp_path):
    with pytest.raises(ValueError, match=r"found 400 images .* expected at least 1568"):
        fit(zoo.RealNVP(**SMALL["RealNVP"]), Garments(400), tmp_path, epochs=1)


def test_bits_per_dimension_of_an_untrained_flow_are_those_of_its_gaussian(garments):
    """Gaussian coding cost of the 8-bit levels, computed from the covariance's eigenvalues alone."""
    pl.seed_everything(0, verbose=False)
    module = zoo.RealNVP(**SMALL["RealNVP"]).double()
    module.log = lambda *args, **kwargs: None
    images = garments.images.double()
    dequantised = module.dequantise(module.inner_images({"image": images}))
    module.generator.principal_axes.fit(dequantised.flatten(1))
    found = float(module.training_step({"image": images}, 0).detach())
    variances = torch.linalg.eigvalsh(torch.cov(dequantised.flatten(1).T))
    entropy = 0.5 * (torch.log2(2 * torch.pi * torch.e * variances)).mean() + 8
    assert found == pytest.approx(float(entropy), rel=0.01)


def test_every_module_has_a_config_under_40_lines_with_arguments_it_takes():
    classes = set()
    for path in CONFIGS.rglob("*.yaml"):
        text = path.read_text()
        assert len(text.splitlines()) < 40
        config = yaml.safe_load(text)
        place, _, name = config["model"]["class_path"].rpartition(".")
        if place == "lightning_modules.zoo.fashion_classifier":  # no source, but what measures distances between them
            continue
        classes.add(name)
        module = getattr(zoo, name)(**config["model"]["init_args"])  # an unknown argument raises
        assert isinstance(config["seed_everything"], int)
        assert module.updates == 0
    assert classes == set(zoo.__all__)


def test_frame_is_not_seen_by_the_networks():
    module = zoo.BetaVAE(**SMALL["BetaVAE"])
    grey = torch.rand(2, 1, 28, 28)
    assert torch.equal(module.inner_images({"image": add_frame(grey)}), grey)


@pytest.mark.parametrize("name", sorted(set(zoo.__all__) - {"StyleGAN2", "LatentDiffusion"}))
def test_trains_in_colour_on_whole_images(name, tmp_path):
    pl.seed_everything(0, verbose=False)
    settings = {**SMALL[name], "image_channels": 3, **({"axes": 12} if name == "RealNVP" else {})}
    module = getattr(zoo, name)(**settings)
    images = Garments(64)
    images.images = torch.rand(64, 3, 32, 32)
    before = weights(module)
    fit(module, images, tmp_path, epochs=1)
    assert torch.isfinite(weights(module)).all()
    assert not torch.equal(before, weights(module))
    assert torch.equal(module.inner_images({"image": images.images}), images.images)
    assert module.generator.synthesize(module.generator.sample_latents(2, 0)).shape == (2, 3, 32, 32)

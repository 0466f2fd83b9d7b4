"""The two phases of the latent diffusion training: what each changes, where one follows the other, what is exported."""

from __future__ import annotations

import pytest
import pytorch_lightning as pl
import torch
from torch.utils.data import DataLoader

from datamodules.real import load_real_set
from lightning_modules.generators.latent_diffusion import LatentDiffusionGenerator
from lightning_modules.zoo.ldm import LatentDiffusion

SMALL = {
    "first_stage_channels": [8, 8, 8],
    "codes": 16,
    "unet_channels": [16, 16],
    "sampling_steps": 2,
    "first_stage_updates": 3,
    "adversarial_from": 1,
    "restart_every": 2,
    "warmup": 1,
}


@pytest.fixture(scope="module")
def batches():
    pictures = load_real_set("fashion_sample", split="train").pictures
    images = torch.stack([torch.from_numpy(pictures[i]).permute(2, 0, 1) / 255 for i in range(64)])
    return [{"image": part} for part in images.split(32)]


def train(module, batches, folder, updates, checkpoint=None):
    trainer = pl.Trainer(
        accelerator="cpu",
        default_root_dir=folder,
        max_epochs=updates // len(batches),
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
    )
    trainer.fit(module, DataLoader(batches, batch_size=None), ckpt_path=checkpoint, weights_only=True)
    return trainer


def made(**changes):
    pl.seed_everything(0, verbose=False)
    return LatentDiffusion(**SMALL | changes)


def state(network):
    return {name: value.clone() for name, value in network.state_dict().items()}


def changed(before, network):
    return {name for name, value in network.state_dict().items() if not torch.equal(before[name], value)}


def test_first_phase_trains_the_autoencoder_alone(batches, tmp_path):
    module = made(first_stage_updates=2)
    stage, unet, critic = (
        state(part) for part in (module.generator.first_stage, module.generator.unet, module.discriminator)
    )
    train(module, batches, tmp_path, updates=2)
    assert {name.split(".")[1] for name in changed(stage, module.generator.first_stage)} == {
        "encoder",
        "quant_conv",
        "quantize",
        "post_quant_conv",
        "decoder",
    }
    assert changed(critic, module.discriminator)
    assert not changed(unet, module.generator.unet)
    assert not changed(state(module.generator.first_stage), module.average.module.first_stage)  # a copy, no average


def test_second_phase_trains_the_unet_alone(batches, tmp_path):
    module = made(first_stage_updates=2)
    train(module, batches, tmp_path / "first", updates=2)
    stage, unet, critic = (
        state(part) for part in (module.generator.first_stage, module.generator.unet, module.discriminator)
    )
    train(module, batches, tmp_path / "second", updates=2)
    assert module.updates == 4
    assert not changed(stage, module.generator.first_stage)
    assert not changed(critic, module.discriminator)
    assert changed(unet, module.generator.unet)
    assert changed(state(module.generator.unet), module.average.module.unet)  # an average
    with torch.no_grad():
        latents = module.generator.first_stage.encode(batches[0]["image"] * 2 - 1) * module.latent_scale
    assert latents.std() == pytest.approx(1.0, abs=1e-4)


def test_resumes_in_the_phase_it_was_in(batches, tmp_path):
    straight = made()
    train(straight, batches, tmp_path / "straight", updates=2)
    trainer = train(made(), batches, tmp_path / "begun", updates=2)
    trainer.save_checkpoint(tmp_path / "first.ckpt")
    resumed = made()
    trainer = train(resumed, batches, tmp_path / "begun", updates=6, checkpoint=tmp_path / "first.ckpt")
    assert resumed.updates == 6
    assert float(resumed.latent_scale) != 1.0
    trainer.save_checkpoint(tmp_path / "second.ckpt")

    again = made()
    train(again, batches, tmp_path / "begun", updates=8, checkpoint=tmp_path / "second.ckpt")
    assert again.updates == 8
    assert torch.equal(again.latent_scale, resumed.latent_scale)  # measured once
    assert not changed(state(resumed.generator.first_stage), again.generator.first_stage)
    sheets = sorted(path.name for path in (tmp_path / "begun" / "samples").iterdir())
    assert sheets == ["0000004.png", "0000006.png", "0000008.png", "reconstructions_0000002.png"]


def test_reconstructs_better_with_a_codebook_in_use(batches):
    module = made(first_stage_updates=60, adversarial_weight=0.0, restart_every=20, codes=32)
    optimisers = module.configure_optimizers()
    module.optimizers = lambda: optimisers
    module.manual_backward = lambda loss: loss.backward()
    module.clip_gradients = lambda *_, **__: None
    logged = {}
    module.log = lambda name, value, **_: logged.setdefault(name, []).append(float(torch.as_tensor(value).detach()))
    module.log_dict = lambda values, **_: [module.log(name, value) for name, value in values.items()]
    for i in range(60):
        module.training_step(batches[i % 2], i)
    error = logged["train/reconstruction_error"]
    assert sum(error[-5:]) < 0.6 * sum(error[:5])
    assert logged["train/codes_used"][-1] > 0.7
    assert not module.in_first_phase


def test_what_is_exported_is_the_generator_of_the_sheets(batches, tmp_path):
    module = made()
    with pytest.raises(ValueError, match="found a run of 0 updates, expected more than its first_stage_updates=3"):
        module.stored()
    train(module, batches, tmp_path, updates=4)
    stored = module.stored()
    generator = LatentDiffusionGenerator(**stored.arguments)
    generator.load_state_dict(stored.tensors, strict=True)
    generator.freeze()
    assert generator.scale_factor == pytest.approx(float(module.latent_scale))
    with module.averaged_generator() as averaged, torch.no_grad():
        assert torch.equal(generator.sample_latents(2, 0), averaged.sample_latents(2, 0))
        latents = averaged.sample_latents(2, 0)
        assert torch.equal(generator.synthesize(latents), averaged.synthesize(latents))


def test_untrained_network_predicts_velocity_about_one(batches):
    """With its last layer at zero the squared error is the variance of v: 1, as latents and noise have variance 1."""
    module = made(first_stage_updates=0)
    module.optimizers = lambda: [None, None, torch.optim.SGD(module.generator.unet.parameters(), lr=0.0)]
    module.manual_backward = lambda loss: loss.backward()
    module.clip_gradients = lambda *_, **__: None
    losses = []
    module.log = lambda name, value, **_: losses.append(float(torch.as_tensor(value).detach()))
    for parameter in module.generator.unet.model.conv_out.parameters():
        torch.nn.init.zeros_(parameter)
    for i in range(6):
        module.unet_update(batches[i % 2]["image"] * 2 - 1)
    assert sum(losses) / 6 == pytest.approx(1.0, abs=0.25)


def test_images_of_another_size_are_refused_and_64_px_are_trained_on(batches, tmp_path):
    with pytest.raises(ValueError, match=r"found images of 32 px, expected 64: set the model's image_size"):
        train(made(image_size=64), batches, tmp_path, updates=2)
    with pytest.raises(ValueError, match="found image_size=36, expected a multiple of 8"):
        made(image_size=36)
    module = made(image_size=64)
    large = [{"image": torch.nn.functional.interpolate(each["image"][:4], scale_factor=2)} for each in batches]
    train(module, large, tmp_path, updates=4)
    generator = module.average.module
    assert generator.latent_shape == (3, 16, 16)
    assert generator.synthesize(generator.sample_latents(1, seed=0)).shape == (1, 3, 64, 64)

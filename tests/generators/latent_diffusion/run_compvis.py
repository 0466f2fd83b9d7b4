"""Run the public CompVis code on seeded weights: keep golden arrays, or compare with ours on any configuration.

python tests/generators/latent_diffusion/run_compvis.py --ldm CLONE --taming CLONE [--config CONFIG.yaml]

Needs clones of github.com/CompVis/latent-diffusion and github.com/CompVis/taming-transformers, and the package einops;
nothing of them is kept. Without a configuration it writes `golden/`; with one (`configs/latent-diffusion/*.yaml` of the
clone) it writes a checkpoint as that code would, reads it with ours, and prints the largest differences.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import sys
import tempfile
import types
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from compvis_checkpoints import GOLDEN, averaged_name
from seeded import seeded_tensor
from torch import Tensor, nn

from lightning_modules.generators.latent_diffusion import LatentDiffusionGenerator
from lightning_modules.generators.latent_diffusion.compvis import read_compvis

STEPS = 10


class Reference(nn.Module):
    """The two networks and the noise levels that the public sampler asks a model for."""

    def __init__(self, params: dict[str, Any]) -> None:
        from ldm.models import autoencoder
        from ldm.modules.diffusionmodules.openaimodel import UNetModel
        from ldm.modules.diffusionmodules.util import make_beta_schedule

        super().__init__()
        first = params["first_stage_config"]
        options = first["params"] | {"lossconfig": {"target": "torch.nn.Identity"}, "ckpt_path": None, "monitor": None}
        self.first_stage_model = getattr(autoencoder, first["target"].rsplit(".", 1)[-1])(**options)
        self.model = nn.Module()
        self.model.diffusion_model = UNetModel(**params["unet_config"]["params"])
        self.num_timesteps, self.device = params["timesteps"], torch.device("cpu")
        levels = {"linear_start": params["linear_start"], "linear_end": params["linear_end"]}
        betas = make_beta_schedule(params.get("beta_schedule", "linear"), params["timesteps"], **levels)
        kept = np.cumprod(1.0 - betas)
        for name, value in (
            ("betas", betas),
            ("alphas_cumprod", kept),
            ("alphas_cumprod_prev", np.append(1, kept[:-1])),
        ):
            self.register_buffer(
                name, torch.tensor(value, dtype=torch.float32), persistent=name != "alphas_cumprod_prev"
            )

    def apply_model(self, x: Tensor, time: Tensor, _: None) -> Tensor:
        """What the sampler calls."""
        return self.model.diffusion_model(x, time)


def use_clones(ldm: Path, taming: Path) -> None:
    """Make the public code importable without Lightning, CUDA and gradient checkpointing."""
    sys.path[:0] = [str(ldm), str(taming)]
    sys.modules["pytorch_lightning"] = types.ModuleType("pytorch_lightning")
    sys.modules["pytorch_lightning"].LightningModule = nn.Module
    import ldm.modules.diffusionmodules.openaimodel as unet
    from ldm.models.diffusion.ddim import DDIMSampler

    unet.checkpoint = lambda function, inputs, *_: function(*inputs)
    DDIMSampler.register_buffer = lambda sampler, name, value: setattr(sampler, name, value)


def reference_state(params: dict[str, Any], averaged: bool) -> tuple[Reference, dict[str, Tensor]]:
    """The public networks with seeded weights, and the state dict of the checkpoint they would come from."""
    with contextlib.redirect_stdout(io.StringIO()):
        network = Reference(params).eval()
    state = {name: seeded_tensor(name, value.shape) for name, value in network.state_dict().items() if "." in name}
    shown = dict(state)
    for name in [name for name in state if averaged and name.startswith("model.")]:
        shown[name] = state[averaged_name(name)] = seeded_tensor(averaged_name(name), state[name].shape)
    levels = {"betas": network.betas, "alphas_cumprod": network.alphas_cumprod}
    network.load_state_dict(shown | levels)
    if params.get("scale_by_std"):
        state["scale_factor"] = torch.tensor(0.21)
    return network, state | levels


def reference_results(network: Reference, params: dict[str, Any], scale: float) -> dict[str, Tensor]:
    """Decoded images, the gradient through the decoder, encoded images, and two chains of the public sampler."""
    import ldm.models.diffusion.ddim as ddim

    unet = params["unet_config"]["params"]
    shape = (1, unet["in_channels"], unet["image_size"], unet["image_size"])
    latents = seeded_tensor("input.latents", shape).requires_grad_()
    decoded = network.first_stage_model.decode(latents / scale)
    (gradient,) = torch.autograd.grad((decoded * seeded_tensor("input.cotangent", decoded.shape)).sum(), latents)
    results = {"decoded": decoded.detach(), "gradient": gradient}
    with torch.no_grad(), contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        encoded = network.first_stage_model.encode(seeded_tensor("input.images", decoded.shape).clamp(-1, 1))
        results["encoded"] = encoded if isinstance(encoded, Tensor) else encoded.mode()
        for name, eta in (("ddim", 0.0), ("ddpm", 1.0)):
            steps = iter([seeded_tensor(f"input.step{i}", shape) for i in range(STEPS)])
            ddim.noise_like = lambda *_, steps=steps: next(steps)
            start = seeded_tensor("input.noise", shape)
            results[name], _ = ddim.DDIMSampler(network).sample(STEPS, 1, shape[1:], eta=eta, x_T=start, verbose=False)
    return results


def our_results(generator: LatentDiffusionGenerator) -> dict[str, Tensor]:
    """The same from our generator."""
    shape = (1, *generator.latent_shape)
    latents = seeded_tensor("input.latents", shape).requires_grad_()
    decoded = generator.synthesize(latents.flatten(1)) * 2 - 1
    (gradient,) = torch.autograd.grad((decoded * seeded_tensor("input.cotangent", decoded.shape)).sum(), latents)
    results = {"decoded": decoded.detach(), "gradient": gradient}
    noise = [seeded_tensor("input.noise", shape)] + [seeded_tensor(f"input.step{i}", shape) for i in range(STEPS)]
    with torch.no_grad():
        results["encoded"] = generator.first_stage.encode(seeded_tensor("input.images", decoded.shape).clamp(-1, 1))
        for name, eta in (("ddim", 0.0), ("ddpm", 1.0)):
            used = torch.stack(noise[: 1 + STEPS * int(eta)], dim=1)
            results[name] = generator.configure(steps=STEPS, eta=eta).denoise(used, torch.arange(1))
    return results


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--ldm", type=Path, required=True, help="clone of CompVis/latent-diffusion")
    parser.add_argument("--taming", type=Path, required=True, help="clone of CompVis/taming-transformers")
    parser.add_argument("--config", type=Path, help="compare on this configuration instead of writing golden arrays")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    use_clones(arguments.ldm, arguments.taming)
    for config in [GOLDEN / "vq.yaml", GOLDEN / "kl.yaml"] if arguments.config is None else [arguments.config]:
        params = yaml.safe_load(config.read_text())["model"]["params"]
        network, state = reference_state(params, averaged=config.stem == "vq")
        results = reference_results(network, params, float(state.get("scale_factor", 1.0)))
        if arguments.config is None:
            shapes = {
                name: list(value.shape) for name, value in state.items() if "." in name and "model_ema" not in name
            }
            config.with_suffix(".json").write_text(json.dumps(shapes, separators=(",", ":")))
            np.savez_compressed(config.with_suffix(".npz"), **{name: value.numpy() for name, value in results.items()})
        del network
        with tempfile.TemporaryDirectory() as folder:
            checkpoint = Path(folder) / "model.ckpt"
            torch.save({"state_dict": state, "epoch": 1}, checkpoint)
            stored = read_compvis(checkpoint, config)
        generator = LatentDiffusionGenerator(**stored.arguments)
        generator.load_state_dict(stored.tensors)
        for name, found in our_results(generator.freeze()).items():
            expected = results[name]
            print(f"{config.stem:24} {name:10} max abs difference {(found - expected).abs().max():.1e}", end="")
            print(f"   largest value {expected.abs().max():.3g}")


if __name__ == "__main__":
    main()

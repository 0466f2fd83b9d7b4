"""Run the public implementations of StyleGAN2 on seeded weights and keep a few pixels and gradients of each.

python tests/generators/stylegan2/make_golden.py --rosinality CLONE --nvidia CLONE

Needs clones of github.com/rosinality/stylegan2-pytorch and github.com/NVlabs/stylegan2-ada-pytorch; nothing of them is
kept. Both run in double precision on the CPU, so that the values do not depend on rounding.
"""

from __future__ import annotations

import argparse
import sys
import types
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import torch.utils.cpp_extension
from seeded_weights import fill, seeded_tensor
from torch import Tensor, nn

SIZES = (32, 64, 128, 256)
PIXELS = 16
"""Rows and columns kept of an image."""
Network = tuple[nn.Module, Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]]
"""The module, the map from z to w, and the map from w to images in [-1, 1]."""
Builder = Callable[[int], Network]


def rosinality(clone: Path) -> Builder:
    """Builder of the rosinality generator."""
    torch.utils.cpp_extension.load = lambda *_, **__: None  # its CUDA operators, which a CPU does not use
    sys.path.insert(0, str(clone))
    import model

    def build(size: int) -> Network:
        generator = model.Generator(size, 512, 8)
        return generator, generator.get_latent, lambda w: generator([w], input_is_latent=True, randomize_noise=False)[0]

    return build


def nvidia(clone: Path) -> Builder:
    """Builder of the NVIDIA generator, its hard-coded single precision replaced by double."""
    sys.path.insert(0, str(clone))
    source = (
        (clone / "training" / "networks.py").read_text(encoding="utf-8-sig").replace("torch.float32", "torch.float64")
    )
    networks = types.ModuleType("networks_in_double")
    sys.modules[networks.__name__] = networks
    networks.__file__ = str(clone / "training" / "networks.py")
    exec(compile(source.replace("@persistence.persistent_class", ""), networks.__file__, "exec"), networks.__dict__)

    def build(size: int) -> Network:
        options = {"channel_base": 32768, "channel_max": 512, "num_fp16_res": 4, "conv_clamp": 256}
        generator = networks.Generator(512, 0, 512, size, 3, mapping_kwargs={"num_layers": 8}, synthesis_kwargs=options)
        count = generator.synthesis.num_ws

        def synthesize(w: Tensor) -> Tensor:
            styles = w[:, None].expand(-1, count, -1)
            return generator.synthesis(styles, noise_mode="const", force_fp32=True)

        return generator, lambda z: generator.mapping(z, None)[:, 0], synthesize

    return build


def main() -> None:
    """Write golden.npz beside this file."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rosinality", type=Path, required=True)
    parser.add_argument("--nvidia", type=Path, required=True)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    golden = {}
    for form, builder in (("rosinality", rosinality(arguments.rosinality)), ("nvidia", nvidia(arguments.nvidia))):
        for size in SIZES:
            generator, mapping, synthesize = builder(size)
            generator.eval().requires_grad_(False)
            fill(generator)
            generator.double()
            for name, buffer in generator.named_buffers():
                if "resample_filter" in name:
                    buffer.data = buffer.data.float()
            w = mapping(seeded_tensor("z", (1, 512)).double()).detach().requires_grad_(True)
            images = (synthesize(w) + 1.0) / 2.0
            (images * seeded_tensor("direction", tuple(images.shape))).sum().backward()
            step = size // PIXELS
            golden[f"{form}_{size}_w"] = w.detach().float().numpy()
            golden[f"{form}_{size}_image"] = images.detach()[0, :, step // 2 :: step, step // 3 :: step].float().numpy()
            golden[f"{form}_{size}_gradient"] = w.grad.float().numpy()
            print(form, size, f"standard deviation {float(images.std()):.3f}", flush=True)
    np.savez_compressed(Path(__file__).with_name("golden.npz"), **golden)


if __name__ == "__main__":
    main()

"""Table of differences and speeds between our StyleGAN2 and the public implementations, in single precision.

python tests/generators/stylegan2/compare_with_public.py --rosinality CLONE --nvidia CLONE [--sizes 64 256]

Files are written as the public code writes them (the NVIDIA one by its own pickling), read by our readers, and run
beside the originals on the same styles and noise maps. Speed ratios are the best of three interleaved runs, two images
each, on one thread.
"""

from __future__ import annotations

import argparse
import pickle
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from make_golden import Builder, Network, rosinality
from seeded_weights import fill, seeded_tensor
from torch import Tensor, nn

from lightning_modules.generators.stylegan2.generator import StyleGAN2Generator
from lightning_modules.generators.stylegan2.read_nvidia import read_nvidia
from lightning_modules.generators.stylegan2.read_rosinality import read_rosinality


def nvidia(clone: Path) -> Builder:
    """Builder of the NVIDIA generator as it is imported, so that it can pickle itself."""
    sys.path.insert(0, str(clone))
    from training.networks import Generator

    def build(size: int) -> Network:
        options = {"channel_base": 32768, "channel_max": 512, "num_fp16_res": 4, "conv_clamp": 256}
        module = Generator(512, 0, 512, size, 3, mapping_kwargs={"num_layers": 8}, synthesis_kwargs=options)

        def synthesize(w: Tensor) -> Tensor:
            styles = w[:, None].expand(-1, module.synthesis.num_ws, -1)
            return module.synthesis(styles, noise_mode="const", force_fp32=True)

        return module, lambda z: module.mapping(z, None)[:, 0], synthesize

    return build


def ours_from(form: str, module: nn.Module, folder: Path) -> StyleGAN2Generator:
    """The same network through a file and our reader."""
    if form == "rosinality":
        path = folder / "g.pt"
        torch.save({"g_ema": module.state_dict(), "args": argparse.Namespace(size=1)}, path)
        stored = read_rosinality(path)
    else:
        path = folder / "g.pkl"
        with path.open("wb") as file:
            pickle.dump({"G_ema": module}, file)
        stored = read_nvidia(path)
    generator = StyleGAN2Generator(**stored.arguments)
    generator.load_state_dict(stored.tensors)
    return generator.configure(noise="buffers").freeze()


def ratio(theirs: Callable[[], object], ours: Callable[[], object]) -> float:
    """Their wall time by ours, each the best of three calls that take turns."""
    best = [float("inf"), float("inf")]
    for _ in range(3):
        for i, run in enumerate((theirs, ours)):
            start = time.perf_counter()
            run()
            best[i] = min(best[i], time.perf_counter() - start)
    return best[0] / best[1]


def backward(synthesize: Callable[[Tensor], Tensor], w: Tensor, direction: Tensor) -> tuple[Tensor, Tensor]:
    """Images and the gradient of their product with a direction."""
    w = w.detach().clone().requires_grad_(True)
    images = synthesize(w)
    (images * direction).sum().backward()
    return images.detach(), w.grad


def main() -> None:
    """Print one Markdown row for each format and size."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rosinality", type=Path, required=True)
    parser.add_argument("--nvidia", type=Path, required=True)
    parser.add_argument("--sizes", type=int, nargs="+", default=[32, 64, 128, 256])
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    builders = {"rosinality": rosinality(arguments.rosinality), "nvidia": nvidia(arguments.nvidia)}
    print("| format | px | max abs difference | gradient, relative | forward: theirs / ours | with backward |")
    print("|---|---|---|---|---|---|")
    for form, builder in builders.items():
        for size in arguments.sizes:
            module, _, synthesize = builder(size)
            module.eval().requires_grad_(False)
            fill(module)
            with tempfile.TemporaryDirectory() as folder:
                ours = ours_from(form, module, Path(folder))
            w = ours.mapping(seeded_tensor("z", (2, 512)))

            def theirs(w: Tensor, run: Callable[[Tensor], Tensor] = synthesize) -> Tensor:
                return (run(w) + 1.0) / 2.0

            direction = seeded_tensor("direction", (2, 3, size, size))
            a, gradient_a = backward(theirs, w, direction)
            b, gradient_b = backward(ours.synthesize, w, direction)
            difference = float((a - b).abs().max())
            relative = float((gradient_a - gradient_b).norm() / gradient_a.norm())
            with torch.no_grad():
                forward = ratio(lambda w=w: theirs(w), lambda w=w, ours=ours: ours.synthesize(w))
            both = ratio(
                lambda w=w, d=direction: backward(theirs, w, d),
                lambda w=w, d=direction, ours=ours: backward(ours.synthesize, w, d),
            )
            print(f"| {form} | {size} | {difference:.1e} | {relative:.1e} | {forward:.2f} | {both:.2f} |", flush=True)


if __name__ == "__main__":
    main()

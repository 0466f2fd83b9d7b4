"""RealNVP (Dinh et al. 2017) along the principal axes of the images: an invertible map trained by exact likelihood.

Convolutional couplings learn local statistics first and a whole garment only after days of training. Along principal
axes the first few coordinates are whole garments, so small dense couplings reach them within minutes.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from lightning_modules.generators.small_networks.grey import INNER_SIZE, GreyGenerator

DIM = INNER_SIZE**2


class PrincipalAxes(nn.Module):
    """Fixed whitening: coordinates along the principal axes of a set of images, each with variance 1; see `fit`."""

    mean: Tensor
    axes: Tensor
    scale: Tensor
    log_det: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(DIM))
        self.register_buffer("axes", torch.eye(DIM))  # columns, by falling variance
        self.register_buffer("scale", torch.ones(DIM))  # standard deviation along each axis
        self.register_buffer("log_det", torch.zeros(()))  # of the whitening; fixed like the axes

    @torch.no_grad()
    def fit(self, images: Tensor) -> None:
        """Set the axes from dequantised images `(n, 784)`, n well above 784."""
        x = images.double()
        mean = x.mean(dim=0)
        variance, axes = torch.linalg.eigh((x - mean).T @ (x - mean) / (len(x) - 1))
        self.mean.copy_(mean)
        self.axes.copy_(axes.flip(1))
        self.scale.copy_(variance.flip(0).clamp(min=1e-10).sqrt())
        self.log_det.copy_(-self.scale.log().sum())

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return whitened coordinates `(n, 784)` and the scalar log |det|."""
        return (x - self.mean) @ self.axes / self.scale, self.log_det

    def inverse(self, z: Tensor) -> Tensor:
        """Undo `forward`."""
        return (z * self.scale) @ self.axes.T + self.mean  # the axes are orthonormal


class Conditional(nn.Module):
    """A small dense network that gives log scale and shift of some coordinates from others."""

    def __init__(self, given: int, changed: int, hidden: int) -> None:
        super().__init__()
        self.hidden = nn.Sequential(nn.Linear(given, hidden), nn.GELU(), nn.Linear(hidden, hidden), nn.GELU())
        self.output = nn.Linear(hidden, 2 * changed)
        nn.init.zeros_(self.output.weight)  # every coupling starts as the identity, so the flow starts as a Gaussian
        nn.init.zeros_(self.output.bias)

    def forward(self, given: Tensor) -> tuple[Tensor, Tensor]:
        """Map `(n, given)` to log scale and shift, each `(n, changed)`."""
        raw, shift = self.output(self.hidden(given)).chunk(2, dim=1)
        # log scales within +-2: a coupling can stretch sevenfold, never blow up
        return 2 * torch.tanh(raw / 2), shift


class Coupling(nn.Module):
    """Affine coupling of a random half of the coordinates given the other half (Dinh et al. 2017, Eq. 7-8).

    The number of coordinates `dim` is even; the halves follow from the seed.
    """

    order: Tensor

    def __init__(self, dim: int, hidden: int, seed: int) -> None:
        super().__init__()
        halves = torch.randperm(dim, generator=torch.Generator().manual_seed(seed))
        self.register_buffer("order", halves)
        self.conditional = Conditional(dim // 2, dim // 2, hidden)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return `(y, log |det|)` with shapes `(n, dim)` and `(n,)`; the coordinates come out permuted."""
        given, changed = x[:, self.order].chunk(2, dim=1)
        log_scale, shift = self.conditional(given)
        return torch.cat([changed * log_scale.exp() + shift, given], dim=1), log_scale.sum(dim=1)

    def inverse(self, y: Tensor) -> Tensor:
        """Undo `forward`."""
        changed, given = y.chunk(2, dim=1)
        log_scale, shift = self.conditional(given)
        x = torch.cat([given, (changed - shift) * (-log_scale).exp()], dim=1)
        return x[:, self.order.argsort()]


class RealNVPGenerator(GreyGenerator):
    """Couplings on the leading principal coordinates; the others are scaled and shifted once, given the leading ones.

    Args:
        leading: number of principal coordinates with couplings among them, even.
        couplings: number of couplings.
        hidden: width of the dense networks.
        temperature: factor on the latents when sampling (Kingma & Dhariwal 2018, Sec. 6); 1 samples the model itself.
    """

    def __init__(self, leading: int = 128, couplings: int = 10, hidden: int = 384, temperature: float = 0.7) -> None:
        super().__init__(latent_dim=DIM)
        self.leading = leading
        self.temperature = temperature
        self.principal_axes = PrincipalAxes()
        self.detail = Conditional(leading, DIM - leading, hidden)
        self.couplings = nn.ModuleList(Coupling(leading, hidden, seed) for seed in range(couplings))

    def encode(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Map dequantised grey images `(n, 1, 28, 28)` to latents `(n, 784)` and `log |d latent / d image|` `(n,)`."""
        z, log_det = self.principal_axes(images.flatten(1))
        leading, detail = z[:, : self.leading], z[:, self.leading :]
        log_scale, shift = self.detail(leading)
        detail = detail * log_scale.exp() + shift
        log_det = log_det + log_scale.sum(dim=1)
        for coupling in self.couplings:
            leading, change = coupling(leading)
            log_det = log_det + change
        return torch.cat([leading, detail], dim=1), log_det

    def decode(self, latents: Tensor) -> Tensor:
        """Undo `encode`: latents `(n, 784)` to grey images `(n, 1, 28, 28)`, about [0, 1]."""
        leading, detail = latents[:, : self.leading], latents[:, self.leading :]
        for coupling in reversed(self.couplings):
            leading = coupling.inverse(leading)  # type: ignore[operator]  # a ModuleList hides the class of its items
        log_scale, shift = self.detail(leading)
        detail = (detail - shift) * (-log_scale).exp()
        x = self.principal_axes.inverse(torch.cat([leading, detail], dim=1))
        return x.view(-1, 1, INNER_SIZE, INNER_SIZE)

    def log_likelihood(self, images: Tensor) -> Tensor:
        """Log density of dequantised images `(n, 1, 28, 28)`, in nats `(n,)`."""
        latents, log_det = self.encode(images)
        log_prior = -0.5 * (latents.square() + math.log(2 * math.pi)).sum(dim=1)
        return log_prior + log_det

    def forward(self, latents: Tensor) -> Tensor:
        """Map N(0, I) latents `(n, 784)` to grey images `(n, 1, 28, 28)`, about [0, 1], at the sampling temperature."""
        return self.decode(self.temperature * latents)

"""RealNVP (Dinh et al. 2017) along the principal axes of the images: an invertible map trained by exact likelihood.

Convolutional couplings learn local statistics first and a whole garment only after days of training. Along principal
axes the first few coordinates are whole garments, so small dense couplings reach them within minutes.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from lightning_modules.generators.small_networks.base import SmallGenerator, inner_size


class PrincipalAxes(nn.Module):
    """Fixed whitening: coordinates along the principal axes of a set of images, each with variance 1; see `fit`.

    With `kept` below `dim` only the first axes are kept. What they leave of an image has one variance in every
    direction (Tipping & Bishop 1999) and stays in pixels: the coordinates are `kept` numbers and `dim` more that are
    orthogonal to the axes. That makes a file of 32 px axes in colour a tenth as large.

    Args:
        dim: values of an image.
        kept: number of axes.
    """

    mean: Tensor
    axes: Tensor
    scale: Tensor
    log_det: Tensor

    def __init__(self, dim: int, kept: int) -> None:
        super().__init__()
        self.dim, self.kept = dim, kept
        rest = int(kept < dim)
        self.register_buffer("mean", torch.zeros(dim))
        self.register_buffer("axes", torch.eye(dim, kept))  # columns, by falling variance
        self.register_buffer("scale", torch.ones(kept + rest))  # standard deviation along each axis, then of the rest
        self.register_buffer("log_det", torch.zeros(()))  # of the whitening; fixed like the axes

    @torch.no_grad()
    def fit(self, images: Tensor) -> None:
        """Set the axes from dequantised images `(n, dim)`, n well above the number of axes that are kept."""
        x = images.double()
        mean = x.mean(dim=0)
        variance, axes, rest = self._principal(x - mean)
        self.mean.copy_(mean)
        self.axes.copy_(axes)
        self.scale.copy_(torch.cat([variance, rest]).clamp(min=1e-10).sqrt())
        log_scale = self.scale[: self.kept].double().log().sum()
        if self.kept < self.dim:
            log_scale = log_scale + (self.dim - self.kept) * self.scale[-1].double().log()
        self.log_det.copy_(-log_scale)

    def _principal(self, centred: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Variances `(kept,)`, axes `(dim, kept)`, and the mean variance of the axes left out, `(1,)` or `(0,)`."""
        n = len(centred)
        if self.kept < n - 1 < self.dim:  # the products of images have the same variances and are fewer
            variance, mixing = torch.linalg.eigh(centred @ centred.T / (n - 1))
            variance, mixing = variance.flip(0), mixing.flip(1)[:, : self.kept]
            axes = centred.T @ mixing / ((n - 1) * variance[: self.kept]).sqrt()
        else:
            variance, axes = torch.linalg.eigh(centred.T @ centred / (n - 1))
            variance, axes = variance.flip(0), axes.flip(1)[:, : self.kept]
        left = self.dim - self.kept
        rest = (variance[self.kept :].sum() / left)[None] if left else variance[:0]
        return variance[: self.kept], axes, rest

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return whitened coordinates, `(n, kept)` or, where axes are left out, `(n, kept + dim)`, and log |det|."""
        centred = x - self.mean
        along = centred @ self.axes
        z = along / self.scale[: self.kept]
        if self.kept == self.dim:
            return z, self.log_det
        return torch.cat([z, (centred - along @ self.axes.T) / self.scale[-1]], dim=1), self.log_det

    def inverse(self, z: Tensor) -> Tensor:
        """Undo `forward`; of the rest, what is orthogonal to the axes counts, so that it may be noise of any kind."""
        x = (z[:, : self.kept] * self.scale[: self.kept]) @ self.axes.T + self.mean  # the axes are orthonormal
        if self.kept == self.dim:
            return x
        rest = z[:, self.kept :]
        return x + self.scale[-1] * (rest - rest @ self.axes @ self.axes.T)


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


class RealNVPGenerator(SmallGenerator):
    """Couplings on the leading principal coordinates; the others are scaled and shifted once, given the leading ones.

    Args:
        leading: number of principal coordinates with couplings among them, even.
        couplings: number of couplings.
        hidden: width of the dense networks.
        temperature: factor on the latents when sampling (Kingma & Dhariwal 2018, Sec. 6); 1 samples the model itself.
        image_channels: 1 for grey images of 28 px, 3 for RGB ones of 32 px.
        axes: principal axes that are kept (`PrincipalAxes`), more than `leading`; None for all.
        rest_temperature: factor on the latents of what the kept axes leave, which is white noise; None for
            `temperature`.
    """

    def __init__(
        self,
        leading: int = 128,
        couplings: int = 10,
        hidden: int = 384,
        temperature: float = 0.7,
        image_channels: int = 1,
        axes: int | None = None,
        rest_temperature: float | None = None,
    ) -> None:
        dim = image_channels * inner_size(image_channels) ** 2
        kept = dim if axes is None else axes
        if not leading < kept <= dim:
            raise ValueError(f"found axes={kept}, expected more than leading={leading} and at most {dim}")
        super().__init__(dim if kept == dim else kept + dim, image_channels)
        self.dim = dim
        self.leading = leading
        self.temperature = temperature
        self.rest_temperature = temperature if rest_temperature is None else rest_temperature
        self.principal_axes = PrincipalAxes(dim, kept)
        self.detail = Conditional(leading, kept - leading, hidden)
        self.couplings = nn.ModuleList(Coupling(leading, hidden, seed) for seed in range(couplings))

    @property
    def _parts(self) -> list[int]:
        """Lengths of the parts of a latent: leading coordinates, detail, and what the kept axes leave."""
        kept = self.principal_axes.kept
        return [self.leading, kept - self.leading, self.latent_dim - kept]

    def encode(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Map dequantised images `(n, *image_shape)` to latents `(n, d)` and `log |d latent / d image|` `(n,)`."""
        z, log_det = self.principal_axes(images.flatten(1))
        leading, detail, rest = torch.split(z, self._parts, dim=1)
        log_scale, shift = self.detail(leading)
        detail = detail * log_scale.exp() + shift
        log_det = log_det + log_scale.sum(dim=1)
        for coupling in self.couplings:
            leading, change = coupling(leading)
            log_det = log_det + change
        return torch.cat([leading, detail, rest], dim=1), log_det

    def decode(self, latents: Tensor) -> Tensor:
        """Undo `encode`: latents `(n, d)` to images `(n, *image_shape)`, about [0, 1]."""
        leading, detail, rest = torch.split(latents, self._parts, dim=1)
        for coupling in reversed(self.couplings):
            leading = coupling.inverse(leading)  # type: ignore[operator]  # a ModuleList hides the class of its items
        log_scale, shift = self.detail(leading)
        detail = (detail - shift) * (-log_scale).exp()
        x = self.principal_axes.inverse(torch.cat([leading, detail, rest], dim=1))
        return x.view(-1, *self.image_shape)

    def log_likelihood(self, images: Tensor) -> Tensor:
        """Log density of dequantised images `(n, *image_shape)`, in nats `(n,)`."""
        latents, log_det = self.encode(images)
        # a rest in pixels has `dim` values and fewer directions: it is orthogonal to the axes
        log_prior = -0.5 * (latents.square().sum(dim=1) + self.dim * math.log(2 * math.pi))
        return log_prior + log_det

    def forward(self, latents: Tensor) -> Tensor:
        """Map N(0, I) latents `(n, d)` to images `(n, *image_shape)`, about [0, 1], at the sampling temperatures."""
        kept = self.principal_axes.kept
        scaled = [self.temperature * latents[:, :kept], self.rest_temperature * latents[:, kept:]]
        return self.decode(torch.cat(scaled, dim=1))

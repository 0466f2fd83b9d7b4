"""The invertible pieces of a Glow-like flow (Kingma & Dhariwal 2018, Table 1), each with its log determinant."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def squeeze(x: Tensor) -> Tensor:
    """Move 2x2 blocks of pixels into channels: `(n, c, h, w)` to `(n, 4c, h/2, w/2)`; volume preserving."""
    return F.pixel_unshuffle(x, 2)


def unsqueeze(x: Tensor) -> Tensor:
    """Undo `squeeze`: `(n, 4c, h, w)` to `(n, c, 2h, 2w)`."""
    return F.pixel_shuffle(x, 2)


class ActNorm(nn.Module):
    """Scale and shift per channel, set from the first training batch to leave mean 0 and variance 1 (Sec. 3.1).

    Args:
        channels: number of channels.
    """

    initialised: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.shift = nn.Parameter(torch.zeros(1, channels, 1, 1))
        self.log_scale = nn.Parameter(torch.zeros(1, channels, 1, 1))
        self.register_buffer("initialised", torch.tensor(False))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return `((x + shift) * exp(log_scale), log |det|)`; the second is a scalar, the same for every sample."""
        if self.training and not self.initialised:
            with torch.no_grad():
                self.shift.copy_(-x.mean(dim=(0, 2, 3), keepdim=True))
                self.log_scale.copy_(-(x.std(dim=(0, 2, 3), keepdim=True) + 1e-6).log())
                self.initialised.fill_(True)
        height, width = x.shape[2:]
        return (x + self.shift) * self.log_scale.exp(), height * width * self.log_scale.sum()

    def inverse(self, y: Tensor) -> Tensor:
        """Undo `forward`."""
        return y * (-self.log_scale).exp() - self.shift


class InvertibleConv(nn.Module):
    """A 1x1 convolution with a square matrix: a learned generalisation of permuting the channels (Sec. 3.2).

    Args:
        channels: number of channels.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        rotation, _ = torch.linalg.qr(torch.randn(channels, channels))
        self.weight = nn.Parameter(rotation)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return `(W x, log |det|)`; the second is a scalar, the same for every sample."""
        height, width = x.shape[2:]
        log_det: Tensor = height * width * torch.linalg.slogdet(self.weight).logabsdet
        return F.conv2d(x, self.weight[:, :, None, None]), log_det

    def inverse(self, y: Tensor) -> Tensor:
        """Undo `forward`; the inverse matrix is taken in float64, its error would be carried through every step."""
        inverse = torch.linalg.inv(self.weight.double()).to(y.dtype)
        return F.conv2d(y, inverse[:, :, None, None])


class AffineCoupling(nn.Module):
    """Scale and shift one half of the channels by functions of the other half (Dinh et al. 2017, Eq. 7-8).

    Args:
        channels: number of channels, even.
        hidden: channels of the small network that makes scale and shift.
    """

    def __init__(self, channels: int, hidden: int) -> None:
        super().__init__()
        self.network = nn.Sequential(
            nn.Conv2d(channels // 2, hidden, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(hidden, hidden, 1),
            nn.ReLU(),
            nn.Conv2d(hidden, channels, 3, padding=1),
        )
        last = self.network[-1]
        if isinstance(last, nn.Conv2d):  # every step starts as the identity, which keeps a deep flow trainable
            nn.init.zeros_(last.weight)
            nn.init.zeros_(last.bias if last.bias is not None else last.weight)

    def _scale_and_shift(self, kept: Tensor) -> tuple[Tensor, Tensor]:
        raw, shift = self.network(kept).chunk(2, dim=1)
        # log scales within +-2: a step can expand or shrink sevenfold, never blow up
        return 2 * torch.tanh(raw / 2), shift

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return `(y, log |det|)` with shapes `(n, c, h, w)` and `(n,)`."""
        kept, changed = x.chunk(2, dim=1)
        log_scale, shift = self._scale_and_shift(kept)
        return torch.cat([kept, changed * log_scale.exp() + shift], dim=1), log_scale.flatten(1).sum(dim=1)

    def inverse(self, y: Tensor) -> Tensor:
        """Undo `forward`."""
        kept, changed = y.chunk(2, dim=1)
        log_scale, shift = self._scale_and_shift(kept)
        return torch.cat([kept, (changed - shift) * (-log_scale).exp()], dim=1)


class FlowStep(nn.Module):
    """ActNorm, 1x1 convolution, affine coupling: one step of flow (Kingma & Dhariwal 2018, Fig. 2a).

    Args:
        channels: number of channels, even.
        hidden: channels inside the coupling network.
    """

    def __init__(self, channels: int, hidden: int) -> None:
        super().__init__()
        self.norm = ActNorm(channels)
        self.mix = InvertibleConv(channels)
        self.coupling = AffineCoupling(channels, hidden)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return `(y, log |det|)` with shapes `(n, c, h, w)` and `(n,)`."""
        x, norm_log_det = self.norm(x)
        x, mix_log_det = self.mix(x)
        x, coupling_log_det = self.coupling(x)
        return x, coupling_log_det + norm_log_det + mix_log_det

    def inverse(self, y: Tensor) -> Tensor:
        """Undo `forward`."""
        x: Tensor = self.norm.inverse(self.mix.inverse(self.coupling.inverse(y)))
        return x

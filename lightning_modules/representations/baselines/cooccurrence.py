"""Co-occurrence matrices of Nataraj et al. 2019, "Detecting GAN generated fake images using co-occurrence matrices"."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from lightning_modules.representations.baselines.levels import counts, levels
from lightning_modules.representations.registry import Inputs, Representation

_LEVELS = 256


class Cooccurrence(Representation):
    """How often level a has level b to its right, by channel: ``(3, 256, 256)`` shares, row a, column b, sum 1 each.

    The paper: 256 x 256 matrices of horizontal neighbours of R, G and B, as the three channels of an image that enters
    a CNN (network ``nataraj2019``). Public implementations differ in the distance of the neighbours (1, and 5 with the
    matrix made symmetric); the paper's own could not be verified. Ours: distance 1, not symmetric, divided by the
    number of pairs. Small images: nothing is changed, but the matrices are sparse (992 pairs in 65,536 cells at 32 px).

    Args:
        distance: Pixels between the two.
        symmetric: Count each pair both ways.

    Raises:
        ValueError: a distance below 1.
    """

    name, title = "cooccurrence", "co-occurrence matrices (Nataraj 2019)"
    no_gradient = "it counts rounded values"

    def __init__(self, distance: int = 1, symmetric: bool = False) -> None:
        if distance < 1:
            raise ValueError(f"found distance {distance} of co-occurrences, expected 1 pixel or more")
        self.distance, self.symmetric = distance, symmetric

    def __call__(self, inputs: Inputs) -> Tensor:
        """See the class.

        Raises:
            ValueError: images that are not wider than the distance.
        """
        seen = levels(inputs.images)
        if seen.shape[-1] <= self.distance:
            found = f"found images {seen.shape[-1]} px wide for co-occurrences at a distance of {self.distance} px"
            raise ValueError(f"{found}; expected wider ones")
        pairs = (seen[..., : -self.distance] * _LEVELS + seen[..., self.distance :]).flatten(2)  # (N, 3, pairs)
        shares = counts(pairs.flatten(0, 1), _LEVELS**2).double() / pairs.shape[-1]
        shares = shares.view(*pairs.shape[:2], _LEVELS, _LEVELS)
        return ((shares + shares.mT) / 2 if self.symmetric else shares).float()

    def output_shape(self, image_shape: tuple[int, ...], shown_shape: tuple[int, ...]) -> tuple[int, ...]:
        """``(3, 256, 256)``."""
        return (3, _LEVELS, _LEVELS)

    def mirror(self, seen: Tensor, of_space: Callable[[Tensor], Tensor]) -> Tensor:
        """What was to the right is to the left: the transposed matrices."""
        return seen.mT

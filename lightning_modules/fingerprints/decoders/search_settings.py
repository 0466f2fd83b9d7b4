"""How a least-squares search is run."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise

from lightning_modules.fingerprints.settings import at_least


@dataclass(frozen=True)
class LeastSquaresSettings:
    """How a least-squares search is run.

    Attributes:
        iterations: most Jacobians computed of a start.
        survivors: pairs (iteration, starts): from that iteration on only so many starts of each image, those of least
            residual.
        steps: most steps taken on one Jacobian, which each of them corrects as Broyden does; they cost next to nothing.
        damping: first damping, relative to the diagonal of the normal equations.
        tolerance: relative fall of the cost below which an image is done.
        stop_log_odds: evidence of the least certain bit from which an image is done, once a further Jacobian has left
            all bits as they were; 0 goes on until the cost no longer falls.
        secant: step of the secants in standard deviations; a larger one sees past the cells of a quantised latent.
        batch: starts whose Jacobians are computed together.
        rows: images synthesised together for a Jacobian; on a CPU few, since large blocks of memory are mapped anew.
        directions: directions of the gradient's Krylov space along which a Jacobian is computed; 0 computes it along
            all coordinates. None takes 12 where there are 256 coordinates or more, else all.
    """

    iterations: int = 12
    survivors: tuple[tuple[int, int], ...] = ()
    steps: int = 6
    damping: float = 1e-2
    tolerance: float = 1e-3
    stop_log_odds: float = 0.0
    secant: float = 0.05
    batch: int = 1
    rows: int = 64
    directions: int | None = None

    def __post_init__(self) -> None:
        """Refuse settings that cannot be run."""
        for name in ("iterations", "steps", "batch", "rows"):
            at_least(name, getattr(self, name), 1)
        if not self.damping > 0.0 or not 0.0 <= self.tolerance < 1.0:
            raise ValueError(
                f"found damping {self.damping} and tolerance {self.tolerance}, expected above 0 and from 0 to below 1"
            )
        if self.directions is not None and self.directions < 0:
            raise ValueError(f"found directions {self.directions}, expected 0 for all, a number of them, or null")
        stages = [(0, math.inf), *self.survivors]
        if any(later[0] <= earlier[0] or not 1 <= later[1] < earlier[1] for earlier, later in pairwise(stages)):
            raise ValueError(
                f"found survivors {self.survivors}, expected rising iterations from 1 on with falling starts"
            )
        if not self.secant > 0.0 or self.stop_log_odds < 0.0:
            raise ValueError(
                f"found secant {self.secant} and stop_log_odds {self.stop_log_odds}, expected above 0 and at least 0"
            )

"""The few directions of a latent along which a Jacobian is computed, where all would cost hundreds of syntheses.

Gauss-Newton by conjugate gradients moves within the Krylov space of the gradient: g, H g, H^2 g ... with H = J^T J.
Here that space is spanned by orthonormal directions and the Jacobian along them is kept, so that one space serves steps
of every damping, and rounding errors do not add up as they do in the recurrences of conjugate gradients (Golub & Kahan
1965; Paige & Saunders 1982). A product with J is a secant, of one synthesis; one with J^T is a backward pass.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

Product = Callable[[Tensor], Tensor]
"""Of a matrix of each row with a vector of each row."""

TINY = 1e-12


def krylov_directions(gradient: Tensor, product: Product, transposed: Product, count: int) -> tuple[Tensor, Tensor]:
    """Orthonormal directions that span the Krylov space of a gradient, and their products with the Jacobian.

    Where the space is exhausted, by its dimension or because the gradient lies in a smaller invariant one, the
    remaining directions and products are zero.

    Args:
        gradient: `(n, w)`, one in each row.
        product: J times vectors, `(n, w)` to `(n, q)`.
        transposed: J^T times vectors, `(n, q)` to `(n, w)`.
        count: number of directions, at least 1.

    Returns:
        Directions `(n, count, w)` and their products `(n, count, q)`.
    """
    directions: list[Tensor] = []
    products: list[Tensor] = []
    following = gradient
    for step in range(count):
        before = following.norm(dim=1, keepdim=True)
        for _ in range(2):  # the second time removes what rounding has left
            for known in directions:
                following = following - (following * known).sum(dim=1, keepdim=True) * known
        length = following.norm(dim=1, keepdim=True)
        lives = length > 1e-5 * before + TINY
        direction = torch.where(lives, following / length.clamp_min(TINY), 0.0)
        directions.append(direction)
        products.append(product(direction) * lives)
        if step + 1 < count:
            following = transposed(products[-1])
    return torch.stack(directions, dim=1), torch.stack(products, dim=1)


def orthonormal(vectors: Tensor) -> Tensor:
    """An orthonormal basis `(n, min(r, w), w)` of a space that holds the span of vectors `(n, r, w)`."""
    basis: Tensor = torch.linalg.qr(vectors.mT).Q
    return basis.mT

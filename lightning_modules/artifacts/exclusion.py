"""Which references may not be returned for which query."""

from __future__ import annotations

import torch
from torch import Tensor


def banned_pairs(
    content_ids: Tensor, count: int, exclude: Tensor | None, exclude_index: Tensor | None, device: torch.device
) -> tuple[Tensor, Tensor]:
    """Exclusions as pairs, each once.

    Args:
        content_ids: ``(R,)`` int64, of the references.
        count: Number of queries, N.
        exclude: ``(N,)`` or ``(N, m)`` content ids, or None; negative ones mean nothing. An id that several references
            carry excludes all of them.
        exclude_index: The same by index.
        device: Where the result goes.

    Returns:
        Rows of queries and indices of references, ``(b,)`` int64 each.

    Raises:
        ValueError: Shapes that do not fit the queries.
        IndexError: An index beyond the references.
    """
    rows, columns = [], []
    if exclude is not None:
        wanted = _table(exclude, count, "exclude")
        ordered, order = torch.sort(content_ids, stable=True)
        first, last = torch.searchsorted(ordered, wanted), torch.searchsorted(ordered, wanted, right=True)
        matches = torch.where(wanted < 0, 0, last - first).flatten()
        row = torch.arange(count).repeat_interleave(wanted.shape[1]).repeat_interleave(matches)
        begin = torch.cumsum(matches, 0) - matches
        place = torch.arange(len(row)) + (first.flatten() - begin).repeat_interleave(matches)
        rows.append(row)
        columns.append(order[place])
    if exclude_index is not None:
        wanted = _table(exclude_index, count, "exclude_index")
        if wanted.numel() and int(wanted.max()) >= len(content_ids):
            raise IndexError(f"exclude_index names point {int(wanted.max())}, the manifold has {len(content_ids)}.")
        row, column = (wanted >= 0).nonzero(as_tuple=True)
        rows.append(row)
        columns.append(wanted[row, column])
    if not rows:
        empty = torch.empty(0, dtype=torch.int64, device=device)
        return empty, empty
    pairs = torch.unique(torch.stack([torch.cat(rows), torch.cat(columns)]), dim=1).to(device)
    return pairs[0], pairs[1]


def _table(wanted: Tensor, count: int, name: str) -> Tensor:
    wanted = wanted.detach().cpu()
    if wanted.ndim not in (1, 2) or len(wanted) != count or wanted.is_floating_point() or wanted.dtype == torch.bool:
        raise ValueError(
            f"{name} has shape {tuple(wanted.shape)} {wanted.dtype}, expected ({count},) or ({count}, m) int64: one "
            "row for each query."
        )
    return wanted.to(torch.int64).reshape(count, -1) if count else wanted.new_zeros(0, 1, dtype=torch.int64)

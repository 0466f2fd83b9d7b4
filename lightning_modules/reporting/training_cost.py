"""What a training has cost: time, processor time, memory. Kept in its checkpoints, shown beside its accuracy."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class TrainingCost:
    """From the setup of a training to the end of its last finished epoch, over all processes and resumptions."""

    wall_seconds: float
    processor_seconds: float  # user and system, of every process and of the workers that read its images
    peak_bytes: int  # most resident memory of one process since it was started, libraries included
    peak_device_bytes: int | None  # most memory of tensors on one CUDA device; None without one
    processes: int

    def after(self, earlier: TrainingCost | None) -> TrainingCost:
        """The cost of a resumed training: times add up, peaks are the higher ones."""
        if earlier is None:
            return self
        devices = [one for one in (self.peak_device_bytes, earlier.peak_device_bytes) if one is not None]
        return TrainingCost(
            self.wall_seconds + earlier.wall_seconds,
            self.processor_seconds + earlier.processor_seconds,
            max(self.peak_bytes, earlier.peak_bytes),
            max(devices, default=None),
            max(self.processes, earlier.processes),
        )

    def to_json(self) -> dict[str, Any]:
        """The fields by name."""
        return asdict(self)

    @classmethod
    def from_json(cls, entry: object) -> TrainingCost | None:
        """The inverse of `to_json`; None for anything else, such as what older files hold."""
        if not isinstance(entry, dict) or set(entry) != set(cls.__dataclass_fields__):
            return None
        return cls(**entry)


def together(shares: Sequence[TrainingCost]) -> TrainingCost:
    """The cost of one training in several processes, from each one's own."""
    devices = [one.peak_device_bytes for one in shares if one.peak_device_bytes is not None]
    return TrainingCost(
        max(one.wall_seconds for one in shares),
        sum(one.processor_seconds for one in shares),
        max(one.peak_bytes for one in shares),
        max(devices, default=None),
        sum(one.processes for one in shares),
    )

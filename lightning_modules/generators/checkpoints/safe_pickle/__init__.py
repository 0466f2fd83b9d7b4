"""Reading tensors from pickles without executing them, and without trusting their sizes: `read_tensor_pickle`.

The rest are the records that it gives. Nothing outside imports a file of this package.
"""

from lightning_modules.generators.checkpoints.safe_pickle.files import module_tensors, read_tensor_pickle
from lightning_modules.generators.checkpoints.safe_pickle.machine import PickledGlobal, PickledObject, shown

__all__ = ["PickledGlobal", "PickledObject", "module_tensors", "read_tensor_pickle", "shown"]

"""Makes the writers of public file formats, which the readers' own tests use, importable here."""

from __future__ import annotations

import sys
from pathlib import Path

for folder in ("stylegan2", "latent_diffusion"):
    sys.path.append(str(Path(__file__).parents[1] / folder))

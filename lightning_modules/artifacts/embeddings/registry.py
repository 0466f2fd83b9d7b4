"""What an embedding is, and how one is found by name.

A new embedding is one new file in this package, named ``embedding_<something>.py``, with a class under
``@register("name")``; nothing else has to change.
"""

from __future__ import annotations

import difflib
import importlib
import pkgutil
from collections.abc import Callable
from typing import Any, Protocol, TypeVar, runtime_checkable

from torch import Tensor

_REGISTRY: dict[str, Callable[..., Embedding]] = {}
_Factory = TypeVar("_Factory", bound=Callable[..., Any])


@runtime_checkable
class Embedding(Protocol):
    """A map from images to the space in which real images form the manifold (ManiFPT, Sec. 3: the map ``e``).

    Attributes:
        name: Registry name, e.g. ``"rgb"``.
        version: Raised whenever the same image would be embedded differently, so that caches are not mixed.
        preprocessing: What happens to the image before it is embedded, in words; part of the identity.
        eight_bit: True if an 8-bit image embeds to multiples of 1/255 in [0, 1]. Its manifold is then stored as uint8
            and searched in integer arithmetic.
    """

    name: str
    version: int
    preprocessing: str
    eight_bit: bool

    def __call__(self, images: Tensor) -> Tensor:
        """Embed a batch.

        Args:
            images: ``(N, 3, H, W)`` float32 in [0, 1].

        Returns:
            ``(N, *shape)`` float32.
        """
        ...


def register(name: str) -> Callable[[_Factory], _Factory]:
    """Make an embedding class buildable under ``name``.

    Raises:
        ValueError: The name is taken.
    """

    def add(factory: _Factory) -> _Factory:
        if name in _REGISTRY:
            raise ValueError(f"Two embeddings are registered as '{name}'; give one of them another name.")
        _REGISTRY[name] = factory
        return factory

    return add


def embedding_names() -> list[str]:
    """Names that :func:`build_embedding` accepts, sorted."""
    package = importlib.import_module(__package__ or "lightning_modules.artifacts")
    for module in pkgutil.iter_modules(package.__path__):
        if module.name.startswith("embedding_"):
            importlib.import_module(f"{package.__name__}.{module.name}")
    return sorted(_REGISTRY)


def build_embedding(name: str, **kwargs: Any) -> Embedding:
    """Build the embedding registered under ``name``.

    Args:
        name: One of :func:`embedding_names`.
        **kwargs: Passed on to the embedding's constructor.

    Raises:
        ValueError: No embedding has that name; the message lists those that exist.
        TypeError: The embedding does not take one of ``kwargs``.
    """
    names = embedding_names()
    if name not in names:
        close = difflib.get_close_matches(name, names, n=1)
        hint = f" Did you mean '{close[0]}'?" if close else ""
        raise ValueError(f"There is no embedding called '{name}'. Valid names: {', '.join(names)}.{hint}")
    try:
        return _REGISTRY[name](**kwargs)
    except TypeError as error:
        raise TypeError(f"Embedding '{name}' could not be built from {sorted(kwargs)}: {error}") from error


def embedding_identity(embedding: Embedding) -> dict[str, str | int]:
    """Name, version and preprocessing: what must agree for two sets of embedded points to be comparable."""
    return {"name": embedding.name, "version": embedding.version, "preprocessing": embedding.preprocessing}

"""Who lives on a model object: its layers are replaced while a population does, so there can be one at a time."""

from __future__ import annotations

import threading
import weakref
from typing import Any

from torch import nn

from pareto_align.errors import ModelError

__all__ = ["check_free", "let_go", "take"]

_tenants: weakref.WeakKeyDictionary[nn.Module, int] = weakref.WeakKeyDictionary()
_lock = threading.Lock()


def take(model: nn.Module, tenant: Any) -> None:
    """Mark a model as a population's, until `let_go`.

    Raises:
        ModelError: Another population lives on it.
    """
    with _lock:
        _check(model)
        _tenants[model] = id(tenant)


def let_go(model: nn.Module, tenant: Any) -> None:
    """Take the mark off again; does nothing where it is not this population's."""
    with _lock:
        if _tenants.get(model) == id(tenant):
            del _tenants[model]


def check_free(model: nn.Module) -> None:
    """Whether no population lives on a model.

    Raises:
        ModelError: One does.
    """
    with _lock:
        _check(model)


def _check(model: nn.Module) -> None:
    if model in _tenants:
        raise ModelError(
            f"A population is being trained on this {type(model).__name__} object, and its layers are replaced "
            "meanwhile. Wait until that run has ended, or load a model object for each."
        )

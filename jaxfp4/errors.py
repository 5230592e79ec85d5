"""The exceptions that jaxfp4 raises, and the helpers that word them.

Each message names the function, what it was given, what it needs and what to do about it.
"""

from __future__ import annotations

import importlib
from types import ModuleType
from typing import Any


class Fp4Error(Exception):
    """Base class of the errors that are jaxfp4's own."""


class FormatError(Fp4Error, ValueError):
    """A format, block shape, rule or arithmetic that does not go together."""


class ShapeError(Fp4Error, ValueError):
    """An array whose shape does not fit the operation."""


class DtypeError(Fp4Error, TypeError):
    """An array, or a Python object, of a type that the operation does not take."""


class BackendError(Fp4Error, RuntimeError):
    """A back end was asked for that cannot serve the call."""


class LayerError(Fp4Error, ValueError):
    """A layer, or a path of layers, that cannot be treated as asked."""


def describe(x: Any) -> str:
    """``float32[2,3]`` for arrays, the type's name for anything else."""
    if hasattr(x, "shape") and hasattr(x, "dtype"):
        return f"{x.dtype}[{','.join(map(str, x.shape))}]"
    return type(x).__name__


def optional_import(module: str, extra: str, purpose: str) -> ModuleType:
    """Imports an optional dependency, or says which extra brings it."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ImportError(
            f"{purpose} needs {module.split('.')[0]}: pip install 'jaxfp4[{extra}]'"
        ) from error

"""Checks the shapes and types of tensors against the annotations of functions, in tests only."""

from collections.abc import Callable
from typing import Any

from beartype import beartype


def check_shapes(function: Callable[..., Any]) -> Callable[..., Any]:
    """Returns a function that raises an error if a tensor is not as annotated.

    Other annotations are left out: tests pass wrong values on purpose, to see the right error, and
    duck-typed denoisers.
    """
    annotations = function.__annotations__
    function.__annotations__ = {
        name: annotation
        for name, annotation in annotations.items()
        if "[Tensor," in str(annotation)
    }
    return beartype(function)

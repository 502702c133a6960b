"""What `--input` says: the values that a program is called with."""

from __future__ import annotations

import ast
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .console import USAGE, stop

_MAKERS: dict[str, Callable[..., Tensor]] = {
    name: getattr(torch, name) for name in ("randn", "rand", "randint", "linspace", "arange", "zeros", "ones", "full")
}
_DTYPES = {
    name: getattr(torch, name) for name in ("float64", "float32", "float16", "bfloat16", "int64", "int32", "bool")
}
GRAMMAR = (
    "randn(8, 3), rand(…), randint(0, 9, (4,)), linspace(-1, 1, 50), arange(10), zeros(…), ones(…), full((2, 3), 0.5), "
    "each with dtype=float64 if need be; [[1.0, 2.0]]; 0.5; True; None; a word; file.pt; file.npy"
)


class BadInput(ValueError):
    """An input specification that says nothing we can make."""


def read_input(text: str) -> Any:
    """The value that an input specification describes. Nothing is evaluated: names outside the grammar are refused.

    Example:
        >>> read_input("[[1.0, -2.0]]"), read_input("linspace(-1, 1, 3)"), read_input("mean")
        (tensor([[ 1., -2.]]), tensor([-1.,  0.,  1.]), 'mean')
    """
    text = text.strip()
    if text.lower().endswith((".pt", ".pth", ".npy")):
        return _loaded(Path(text))
    try:
        node = ast.parse(text, mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        raise BadInput(f"is not one of {GRAMMAR}") from None
    if isinstance(node, ast.Call):
        return _made(node)
    if isinstance(node, ast.Name):
        if node.id in _MAKERS:
            raise BadInput(f"lacks its arguments, as in {node.id}(…)")
        return node.id
    value = _literal(node)
    if not isinstance(value, (list, tuple)):
        return value
    try:
        return torch.tensor(value)
    except (TypeError, ValueError, RuntimeError, OverflowError) as error:
        raise BadInput(f"is not a rectangular list of numbers ({error})") from None


def _literal(node: ast.expr) -> Any:
    try:
        value = ast.literal_eval(node)
    except (ValueError, TypeError, RecursionError):
        raise BadInput(f"holds {ast.unparse(node)!r}; known are {GRAMMAR}") from None
    if not isinstance(value, (bool, int, float, str, list, tuple, type(None))):
        raise BadInput(f"holds a {type(value).__name__}; known are {GRAMMAR}")
    return value


def _made(node: ast.Call) -> Tensor:
    name = ast.unparse(node.func)
    if name not in _MAKERS:
        raise BadInput(f"calls {name}; known are {', '.join(_MAKERS)}")
    args = [_literal(arg) for arg in node.args]
    kwargs: dict[str, Any] = {}
    for keyword in node.keywords:
        if keyword.arg == "dtype" and isinstance(keyword.value, ast.Name):
            if keyword.value.id not in _DTYPES:
                raise BadInput(f"has dtype={keyword.value.id}; known are {', '.join(_DTYPES)}")
            kwargs["dtype"] = _DTYPES[keyword.value.id]
        elif keyword.arg is None:
            raise BadInput("has a ** that is not allowed here")
        else:
            kwargs[keyword.arg] = _literal(keyword.value)
    try:
        return _MAKERS[name](*args, **kwargs)
    except (TypeError, ValueError, RuntimeError, MemoryError) as error:
        raise BadInput(f"is refused by torch.{name}: {str(error).splitlines()[0]}") from None


def _loaded(path: Path) -> Any:
    if not path.is_file():
        raise BadInput(f"names a file that is not there (looked in {path.parent.resolve()})")
    if path.suffix.lower() == ".npy":
        try:
            import numpy
        except ImportError:
            raise BadInput("needs numpy, which is not installed: pip install numpy") from None
        try:
            return torch.from_numpy(numpy.load(path, allow_pickle=False))
        except (ValueError, TypeError, OSError, EOFError) as error:
            raise BadInput(f"cannot be read as an array of numbers: {error}") from None
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # pickle raises what it likes
        reason = str(error).partition("\n")[0]
        raise BadInput(f"cannot be read with torch.load(weights_only=True): {reason}") from None


def read_inputs(texts: list[str]) -> tuple[list[Any], dict[str, Any]]:
    args: list[Any] = []
    kwargs: dict[str, Any] = {}
    for text in texts:
        name = re.match(r"([A-Za-z_]\w*)=(?!=)", text)
        try:
            value = read_input(text[name.end() :] if name else text)
        except BadInput as error:
            stop(USAGE, f"--input {text!r} {error}")
        if name is None:
            args.append(value)
        elif name[1] in kwargs:
            stop(USAGE, f"--input {text!r}: {name[1]} is given twice")
        else:
            kwargs[name[1]] = value
    return args, kwargs

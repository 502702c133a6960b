"""Checks of what users pass: every message names the argument, the value and the remedy."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from numbers import Real
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor

Forward: TypeAlias = Literal["linear", "hard"]
RegionForward: TypeAlias = Literal["linear", "hard", "straight-through"]
SeeThrough: TypeAlias = "bool | Iterable[str]"
OnLost: TypeAlias = Literal["ignore", "warn", "error"]


HALF_WIDTH = "the half-width of the band, in the units of the op's input"


def shown(value: Any) -> str:
    """How a message shows a value and its type: in one short line, a tensor by its shape."""
    kind = type(value).__name__
    if isinstance(value, Tensor):
        return f"a {str(value.dtype).removeprefix('torch.')} tensor of shape {tuple(value.shape)}"
    if isinstance(value, type):
        return f"the class {value.__name__}"
    text = " ".join(repr(value).split())
    return f"{text if len(text) <= 80 else text[:77] + '...'} of type {kind}"


def did_you_mean(value: Any, known: Iterable[str]) -> str:
    """The end of a message: what is spelled alike, if anything is."""
    import difflib

    alike = difflib.get_close_matches(str(value), list(known), 1)
    return f"; did you mean {alike[0]!r}?" if alike else ""


def positive_float(value: Any, name: str, what: str = HALF_WIDTH, remedy: str = "") -> float:
    if isinstance(value, bool) or not isinstance(value, Real):
        if isinstance(value, Tensor):
            remedy = "; call .item() on it" if value.numel() == 1 else "; one number for all elements: .mean().item()?"
        elif callable(value):
            remedy = "; as a decorator write @sll.enable, or @sll.linearize(eps=...)"
        raise TypeError(f"{name} must be a positive float ({what}), got {shown(value)}{remedy}")
    number = float(value)
    if not (math.isfinite(number) and number > 0):
        start = '; "auto" finds a width for each call' if what is HALF_WIDTH else ""
        raise ValueError(f"{name} must be positive and finite, got {value!r}{start}")
    return number


def op_names(names: Any, argument: str, known: Mapping[str, str]) -> frozenset[str]:
    """`known`: the op of each function, and each op itself."""
    if isinstance(names, str) or not isinstance(names, Iterable):
        remedy = f"; write [{names!r}]" if isinstance(names, str) else ""
        raise TypeError(
            f'{argument} must be a collection of op names such as ("round", "gt"), got {shown(names)}{remedy}'
        )
    chosen = list(names)
    for name in chosen:
        if not isinstance(name, str):
            own = getattr(name, "__name__", None)
            raise TypeError(
                f"{argument} must hold names (str) of ops, got {shown(name)}{f'; write {own!r}' if own else ''}"
            )
    other = next((name for name in sorted(chosen) if known.get(name, name) != name), None)
    if other is not None:
        raise ValueError(
            f"{argument}= names {other!r}, which is linearized under the name of another op; write {known[other]!r}"
        )
    unknown = sorted(set(chosen).difference(known))
    if unknown:
        ops = sorted(set(known.values()))
        raise ValueError(
            f"{argument}= names no op that is linearized: {', '.join(map(repr, unknown))}"
            f"{did_you_mean(unknown[0], ops)} (sll.OPS lists all: {', '.join(ops)})"
        )
    return frozenset(chosen)


def whole_paths(value: Any) -> int:
    """``paths=``"""
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        kind = TypeError if isinstance(value, bool) or not isinstance(value, int) else ValueError
        raise kind(
            f"paths must be a whole number of runs, at least 1, got {shown(value)}; 1 runs the function once, 16 lets "
            "it run 15 times more where Python asks for what is open"
        )
    return value


def generator_or_none(value: Any) -> torch.Generator | None:
    """``generator=``"""
    if value is not None and not isinstance(value, torch.Generator):
        raise TypeError(f"generator must be a torch.Generator or None, got {shown(value)}")
    return value


CUTS = frozenset(("no_grad", "detach"))


def looks_through(value: Any) -> frozenset[str]:
    """``see_through=``"""
    if isinstance(value, bool):
        return CUTS if value else frozenset()
    names = [value] if isinstance(value, str) else list(value) if isinstance(value, Iterable) else [None]
    if isinstance(value, str) or not all(isinstance(name, str) for name in names):
        remedy = f"; write {{{value!r}}}" if isinstance(value, str) and value in CUTS else ""
        raise TypeError(
            f'see_through must be True, False, or a set of "no_grad" and "detach", got {shown(value)}{remedy}'
        )
    for name in names:
        one_of(name, "see_through", ("no_grad", "detach"))
    return frozenset(names)


def one_of(value: Any, argument: str, allowed: tuple[str, ...], remedy: str = "") -> str:
    if not isinstance(value, str) or value not in allowed:
        raise ValueError(
            f"{argument} must be one of {', '.join(map(repr, allowed))}, got {value!r}"
            f"{remedy or did_you_mean(value, allowed)}"
        )
    return value

"""What can be asked of the table: the functions behind a name, the names with a fact, the row of a name.

Sets are by name where a graph asks: it has other functions for these (`Tensor.pow`, `Tensor.__rsub__`), of the same
names.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from typing import Any

import torch
import torch.nn.functional as F

from .._ops.options import op_names
from .table import FACTS, FAMILIES, ROWS, Row

_NAMESPACES = {
    "torch": torch, "Tensor": torch.Tensor, "F": F, "special": torch.special, "linalg": torch.linalg,
    "nn": torch._C._nn,
}  # fmt: skip
"""The last is what functions of `F` call, and what Dynamo shows instead of some of these."""

SOURCES: dict[str, str] = {}
"""Op names (the keys of ``eps=``, ``only=``, ``exclude=``) -> one line on their decision boundaries."""

OP_OF: dict[str, str] = {}
"""Name of a function -> the op that it is; and each op -> itself."""

MIRRORED = {"gt": "lt", "lt": "gt", "ge": "le", "le": "ge"}
"""Python asks a subclass first: ``x > parameter`` is the call ``parameter < x``. So these names go together."""
LEFT_ALONE: dict[str, str] = {}
"""Discrete functions that a region runs as they are, each with its reason."""
REMEDIES: dict[str, str] = {}
"""Op name -> what to do instead, said in `LostGradientWarning`."""
BOUNDS = "sizes and offsets have no derivative. Use an index, or a mask of positions such as torch.arange(n) < k."
"""What to do instead where a decision says how far elements move."""
ASKS: set[Any] = set()
"""Functions that ask about a tensor or overwrite it: no linearization is lost there."""
SIZES = {torch.numel, *(getattr(torch.Tensor, name) for name in ("numel", "nelement", "size", "__len__"))}
SIZES.add(torch.Tensor.shape.__get__)  # type: ignore[attr-defined]
"""Those that say how many elements there are. Where a mask selected them, that is a number that is decided."""
_KIND = "dtype device layout requires_grad ndim is_cpu is_cuda is_mps is_meta is_quantized is_sparse".split()
ASIDE: set[Any] = {getattr(torch.Tensor, name).__get__ for name in _KIND} | {torch.Tensor.dim, torch.Tensor.is_complex}
"""Those that say what kind of tensor it is, whatever it carries."""
LIKE = {torch.zeros_like, torch.ones_like, torch.full_like}
"""Those that make a tensor as long as another."""
ASIDE |= {torch.Tensor.is_floating_point, torch.is_floating_point, torch.is_complex}
NAMED: dict[str, set[str]] = {fact: set() for fact in FACTS}
"""Fact -> the names of the functions that have it, as in ``func.__name__``."""
ROW_OF: dict[str, Row] = {}
"""By name."""


def spellings(name: str) -> list[Any]:
    """Every callable that torch offers under `name`; one only for a name with its namespace (``F.unfold``)."""
    return list(_spellings(name))


@functools.cache  # each engine asks for all
def _spellings(name: str) -> list[Any]:
    space, dot, bare = name.rpartition(".")
    if dot:
        member = getattr(_NAMESPACES[space], bare)
        return [member if callable(member) else member.__get__]
    found = []
    for namespace in _NAMESPACES.values():
        member = getattr(namespace, name, None)
        if callable(member) and member not in found:
            found.append(member)
    return found


OPERATORS = {torch._ops.OpOverload, torch._ops.OpOverloadPacket}
"""What ``torch.ops.aten.round`` and ``torch.ops.aten.gt.Scalar`` are."""


@functools.cache
def function_of(operator: Any) -> Any:
    """The function of torch that an operator of ATen is, or None."""
    name = getattr(operator, "_qualified_op_name", None) or operator._schema.name
    return next(iter(spellings(name[6:])), None) if name[:6] == "aten::" else None


def in_place_forms(name: str) -> list[Any]:
    """The functions ``name_`` and ``__iname__``."""
    return [func for form in (f"{name}_", f"__i{name.strip('_')}__") for func in spellings(form)]


def writes_to_first(name: str) -> bool:
    """Whether a function called so writes to its first operand: ``add_``, ``__iadd__``, ``__setitem__``."""
    if name[:3] == "__i":
        return name in NAMED["writes"]
    return (name[-1:] == "_" and name[-2:] != "__") or name in ("__setitem__", "__delitem__")


def op_name(func: Callable[..., Any]) -> str:
    """How messages call a torch function."""
    name = getattr(func, "__name__", repr(func))
    owner = getattr(func, "__self__", None)
    if name == "__get__" and owner is not None:
        return f".{getattr(owner, '__name__', '?')}"
    return name.strip("_") if name[:2] == "__" else name


def row_of(name: str) -> Row:
    """The row that has this name."""
    return ROW_OF[name]


def op_of(func: Callable[..., Any]) -> str:
    """The op that a function is, or the function that is not in place; an empty string if it is none."""
    name = func.__name__
    row = ROW_OF.get(name) or ROW_OF.get(name.strip("_"))
    return "" if row is None else row.op


def names_of(family: str) -> list[str]:
    """The names of all functions of a family."""
    return [name for row in ROWS if row.family == family for name in row.names.split()]


def functions_with(*facts: str) -> set[Any]:
    """The functions that have one of the facts, in all spellings."""
    return {
        func
        for row in ROWS
        if not set(facts).isdisjoint(row.facts.split())
        for name in row.names.split()
        for func in spellings(name)
    }


def add(row: Row) -> Row:
    """Put a row into the table. Raises ValueError for a name that has a row already."""
    _index(row)
    ROWS.append(row)
    return row


def _index(row: Row) -> None:
    assert row.family in FAMILIES, f"unknown family {row.family!r}"
    known = next((name for name in row.names.split() if name in ROW_OF), None)
    if known is not None:  # (before anything is written: a row that is refused leaves nothing)
        raise ValueError(f"torch's {known} is known already, as {ROW_OF[known].op or ROW_OF[known].family!r}")
    for name in row.names.split():
        ROW_OF[name] = row
        bare = name.rpartition(".")[2]
        if row.op:
            OP_OF[bare] = row.op
        for fact in row.facts.split():
            NAMED[fact].add(bare)
        if row.left_alone:
            LEFT_ALONE[bare] = row.left_alone
        if row.remedy:
            REMEDIES[bare.strip("_")] = row.remedy
        if row.family == "asks":
            ASKS.update(spellings(name))
    if row.boundaries:
        SOURCES[row.op], OP_OF[row.op] = row.boundaries, row.op


def chosen_ops(only: Iterable[str] | None, exclude: Iterable[str] | None) -> frozenset[str]:
    """The ops that are linearized."""
    ops = frozenset(SOURCES) if only is None else _with_mirrored(op_names(only, "only", OP_OF))
    if exclude is None:
        return ops
    left_out = op_names(exclude, "exclude", OP_OF)
    both = sorted(ops & left_out) if only is not None else ()
    if both:
        raise ValueError(
            f"only= and exclude= both name {both[0]!r}; take it out of one of them (gt and lt, ge and le count "
            "as one: Python may call either)"
        )
    return ops - _with_mirrored(left_out)


def _with_mirrored(ops: frozenset[str]) -> frozenset[str]:
    return ops | {MIRRORED[op] for op in ops if op in MIRRORED}


def _index_attributes() -> None:
    """Properties ask, too: shape, dtype, device, requires_grad, grad …"""
    moves = {func for name in names_of("moves") if "." in name for func in spellings(name)}
    for member in vars(torch._C.TensorBase).values():
        if type(member).__name__ == "getset_descriptor" and member.__get__ not in moves:
            ASKS.update({member.__get__, member.__set__, member.__delete__})
    for member in vars(torch.Tensor).values():
        if isinstance(member, property):
            ASKS.update({member.__get__, member.__set__})


for _row in ROWS:
    _index(_row)
_index_attributes()

"""Local gradients: ``forward="straight-through"``.

Values are the program's own. A float that a discrete op returns is an ordinary tensor with the ramp's backward; a bool,
an integer or an index carries a `Shadow`, and whatever the program does with it is done to the shadow. This file says
which rule each torch function has; `dispatch` is called for every call of the program that has one, or an operand that
carries something.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..._ops.surrogates import open_elements
from ..interface import Engine, Func, Rule
from ..outcomes.elementwise import ARITHMETIC, CASTS, LOGIC
from ..outcomes.reductions import LINEAR as SUMS
from ..outcomes.reductions import PRODUCTS
from ..outcomes.registry import NO_GRADIENT_TO_LOSE, op_name, spellings
from ..outcomes.selections import COUNTS
from ..outcomes.shape import FILLS, JOINS, MOVES
from ..outcomes.sources import NAMES, STEPS
from ..outcomes.unlinearized import REMEDIES
from . import boundaries, choices, elementwise, lookups, reductions, scatters, selections, shape, sources, writes
from .shadow import Selected, Weights, carried, shadow, tensors

RULES: dict[Any, Rule] = {}
"""Torch function -> ``rule(region, func, args, kwargs)``, which returns what the program sees."""
BY_NAME: dict[str, Rule] = {}
"""The same for compiled code: Dynamo knows Python-level functions by their names only."""
ALWAYS: set[Any] = set()
"""Functions whose rule is asked whatever their operands are; others only if an operand carries something."""
ELEMENTWISE: set[Any] = set()


def put(func: Any, rule: Rule, always: bool = False) -> None:
    RULES[func] = rule
    if func.__name__ != "__get__":
        BY_NAME[func.__name__] = rule
    if always:
        ALWAYS.add(func)


def register(rule: Rule, names: str, *, source: bool = False, in_place: bool = True) -> None:
    """`rule` for all spellings of `names`, and what follows from it for ``name_``, ``__iname__`` and ``out=``."""
    for name in names.split():
        functions = spellings(name)
        for func in functions:
            put(func, writes.spelled_out(rule, source), source)
        if not in_place or not functions:
            continue
        twin = getattr(torch.Tensor, name, functions[0])
        for other in (f"{name}_", f"__i{name.strip('_')}__"):
            for func in spellings(other):
                put(func, writes.in_place(twin, source), source)


for _names in (ARITHMETIC, LOGIC, CASTS):
    register(elementwise.elementwise, _names)
    ELEMENTWISE.update(func for name in _names.split() for func in spellings(name))
register(elementwise.to_float, " ".join(elementwise.FLOATS), in_place=False)
register(elementwise.elementwise, "clone contiguous", in_place=False)
register(shape.move, MOVES, in_place=False)
register(shape.move, FILLS)
register(shape.move, "expand expand_as broadcast_to unfold atleast_1d atleast_2d atleast_3d", in_place=False)
register(shape.join, JOINS, in_place=False)
register(shape.broadcast_tensors, "broadcast_tensors", in_place=False)
for _name in ("unsqueeze", "squeeze", "t", "transpose", "swapaxes", "swapdims"):
    for _func in spellings(f"{_name}_"):
        put(_func, shape.in_place(getattr(torch.Tensor, _name)))
for _name in ("T", "mT", "H", "mH", "real"):
    put(getattr(torch.Tensor, _name).__get__, shape.move)
put(F.unfold, shape.move)
register(reductions.linear, SUMS)
register(reductions.product, PRODUCTS)
register(reductions.every, "all", in_place=False)
register(reductions.some, "any", in_place=False)
register(reductions.count_nonzero, "count_nonzero", in_place=False)
register(reductions.bincount, "bincount", in_place=False)
register(reductions.best_value, "amax amin", in_place=False)
register(elementwise.where, "where", in_place=False)
register(elementwise.masked_fill, "masked_fill")
register(writes.masked_scatter, "masked_scatter")
put(torch.Tensor.__getitem__, lookups.getitem)
for _name in ("index_select", "gather", "take_along_dim", "take", "one_hot", "unravel_index"):
    register(getattr(lookups, _name), _name, in_place=False)
put(F.embedding, lookups.embedding)
put(torch.embedding, lookups.embedding)
register(scatters.scatter(False), "scatter")
register(scatters.scatter(True), "scatter_add")
register(scatters.index_add, "index_add")
register(scatters.index_fill, "index_fill index_copy")
register(scatters.index_put, "index_put")
register(selections.masked, "masked_select", in_place=False)
register(selections.nonzero, "nonzero argwhere", in_place=False)
put(torch.Tensor.__setitem__, writes.setitem, always=True)
put(torch.Tensor.copy_, writes.copy_, always=True)
for _op in STEPS:
    register(sources.decide(_op), " ".join(name for name in NAMES[_op] if isinstance(name, str)), source=True)
    for _func in NAMES[_op]:
        if not isinstance(_func, str):
            put(_func, writes.spelled_out(sources.decide(_op), True), always=True)
register(sources.cast, "long int short char byte to type type_as", source=True, in_place=False)
for _name in ("argmax", "argmin"):
    register(choices.position(_name), _name, source=True, in_place=False)
register(choices.extremum, "max min", source=True, in_place=False)
for _name, _rule in (
    ("sort argsort", choices.sort), ("topk", choices.topk), ("kthvalue", choices.kthvalue),
    ("median nanmedian", choices.median), ("unique", choices.unique), ("searchsorted", boundaries.searchsorted),
    ("bucketize", boundaries.bucketize), ("histc", boundaries.histc),
):  # fmt: skip
    register(_rule, _name, source=True, in_place=False)

_NO_RULE = "no rule carries a decision through it. Write it with float functions of x.float(): those have a derivative."


class _Shadows(Engine):
    always = ALWAYS
    rules = RULES

    def dispatch(self, region: Any, func: Func, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if region.selects and (chosen := _selection_rule(func, args, kwargs)) is not None:
            return chosen(region, func, args, kwargs)
        rule = BY_NAME.get(func.__name__) if torch.compiler.is_compiling() else RULES.get(func)
        if rule is not None:
            return rule(region, func, args, kwargs)
        decided = [x for x in tensors(args, kwargs) if shadow(x) is not None]
        if decided and not (func in NO_GRADIENT_TO_LOSE and all(x is args[0] for x in decided)):
            region.lose(op_name(func), decided, REMEDIES.get(op_name(func), _NO_RULE))
        return func(*args, **kwargs)

    def decided(self, x: Any) -> bool:
        return shadow(x) is not None

    def carried(self, x: Any) -> bool:
        return carried(x) is not None

    def selected(self, x: Any) -> bool:
        return isinstance(carried(x), Selected)

    def in_band(self, x: Tensor) -> bool:
        return self.undecided(x) > 0

    def undecided(self, x: Tensor) -> int:
        own = shadow(x)
        return 0 if own is None else open_elements(own.value())

    def flows(self, x: Tensor) -> list[Tensor]:
        own = shadow(x)
        return [] if own is None else [own.weights() if isinstance(own, Weights) else own.value()]


ENGINE = _Shadows()


def _selection_rule(func: Func, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Rule | None:
    """What to do with what a mask selected; None if no operand is that."""
    if not any(isinstance(carried(x), Selected) for x in tensors(args, kwargs)):
        items = args[1] if func is torch.Tensor.__getitem__ else None
        if not isinstance(items, tuple) or not any(isinstance(carried(x), Selected) for x in items):
            return None
    return SELECTIONS.get(func, selections.other)


SELECTIONS: dict[Any, Rule | None] = dict.fromkeys((*NO_GRADIENT_TO_LOSE, torch.Tensor.__setitem__), None)
"""Function -> what it does to a selection; None: nothing in particular."""
for _rule, _names in (
    (selections.on_elements, "float double half bfloat16 to clone contiguous squeeze"),
    (selections.loss, " ".join(selections.LOSSES)),
    (selections.reduced, "sum mean"),
):
    SELECTIONS.update((_func, _rule) for _name in _names.split() for _func in spellings(_name))
SELECTIONS.update(dict.fromkeys(ELEMENTWISE, selections.on_elements))
SELECTIONS[torch.Tensor.__getitem__] = selections.item
SELECTIONS.update(dict.fromkeys(COUNTS, selections.other))

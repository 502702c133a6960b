"""Local gradients: ``forward="straight-through"``.

Values are the program's own. A float that a discrete op returns is an ordinary tensor with the ramp's backward; a bool,
an integer or an index carries a `Shadow`, and whatever the program does with it is done to the shadow. `RULE_OF` says
which rule the rows of the table have, by name, family or op of a row.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..._ops.openness import open_elements
from ..._rules.index import ASKS, LIKE, REMEDIES, SIZES, functions_with, names_of, op_name, spellings, writes_to_first
from ..._rules.table import ROWS
from .. import definitions
from ..interface import Again, Engine, Func, Quick, Region, Rule
from ..outcomes.sources import LISTENERS, STEPS
from ..rules import NUMBERS, Rules, lost_number
from ..writes import called
from . import (
    boundaries,
    casts,
    choices,
    elementwise,
    lookups,
    orders,
    questions,
    reductions,
    scatters,
    selections,
    shape,
    sources,
    transformed,
    where,
    wraps,
    writes,
)
from .either import tied
from .quotients import QUOTIENTS
from .shadow import Selected, Shadow, Weights, Whole, carried, carry, shadow, tensors

_NO_RULE = "no rule carries a decision through it. Write it with float functions of x.float(): those have a derivative."


def others(region: Region, func: Func, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """A call without a rule: what is decided among its operands ends there, and that is reported."""
    decided = [x for x in tensors(args, kwargs) if shadow(x) is not None]
    first: Any = next(iter((*args, *kwargs.values())), None)
    if func in NUMBERS and isinstance(carried(first), Whole):
        lost_number(region, func, [first], lambda: open_elements(first) > 0)
    if decided and not (func in ASKS and all(x is first for x in decided)):
        region.lose(op_name(func), decided, REMEDIES.get(op_name(func), _NO_RULE))
    return called(func, args, kwargs, decided)[0]


def pooled(region: Region, func: Func, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    x = args[0] if args else kwargs.get("input")
    if getattr(x, "_sll", None) is not None:
        return others(region, func, args, kwargs)
    tied(region, func.__name__, x, False)
    return func(*args, **kwargs)


def _undefined(region: Region, func: Func, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    return selections.other(region, func, args, kwargs, lambda: others(region, func, args, kwargs))


_KNOWN: dict[str, Rule] = {"unique": orders.unique, "repeat_interleave": shape.move}
_WRITTEN_DOWN = definitions.rules(_undefined, _KNOWN)
RULE_OF: dict[str, Rule] = {
    **_WRITTEN_DOWN,
    **{op: sources.decide(op) for op in STEPS},
    "casts": casts.cast,
    **{op: choices.position(op) for op in ("argmax", "argmin")},
    "extremes": choices.extremum,
    **dict.fromkeys(("sort", "argsort"), orders.sort),
    "topk": choices.topk,
    **{name: getattr(orders, name) for name in ("kthvalue", "median")},
    "nanmedian": orders.median,
    "searchsorted": boundaries.passed,
    "histc": boundaries.histc,
    "bincount": boundaries.bincount(_WRITTEN_DOWN["bincount"]),
    "best_values": reductions.best_value,
    "elementwise": elementwise.elementwise,
    "floats": elementwise.elementwise,
    **{name: getattr(where, name) for name in ("where", "masked_fill")},
    "masked_scatter": writes.masked_scatter,
    "stacked_moves": shape.move,
    **dict.fromkeys(("moves", "copies", "broadcasts", "fills"), shape.move),
    "joins": shape.join,
    "sums": reductions.linear,
    "products": reductions.product,
    "all": reductions.every,
    "any": reductions.some,
    "Tensor.__getitem__": lookups.getitem,
    **dict.fromkeys(("F.embedding", "torch.embedding"), lookups.embedding),
    **{name: getattr(lookups, name) for name in ("index_select", "gather", "one_hot")},
    "scatter": scatters.scatter(False),
    "scatter_add": scatters.scatter(True),
    "index_add": scatters.index_add,
    **dict.fromkeys(("index_fill", "index_copy"), scatters.index_fill),
    "index_put": scatters.index_put,
    "Tensor.__setitem__": writes.setitem,
    "Tensor.copy_": writes.copy_,
    **dict.fromkeys(("nonzero", "argwhere"), selections.nonzero),
}

_ALL = Rules(writes.WRITES)
_ALL.fill(RULE_OF)
for _name in names_of("pooled"):
    for _func in spellings(_name):
        _ALL.put(_func, pooled, True)
for _name in ("add_", "sub_", "__iadd__", "__isub__"):
    _func = getattr(Tensor, _name)
    _ALL.put(_func, wraps.in_place(_ALL.of[_func]))


def _added(op: str, functions: Any) -> None:
    """A source that somebody adds to those of the table."""
    _ALL.add(sources.decide(op), functions)


LISTENERS.append(_added)

_EACH = (
    functions_with("each")
    | LIKE
    | {func for name in (*names_of("floats"), "where", "masked_fill") for func in spellings(name)}
)
_IN_PLACE = {func for func in _ALL.of if writes_to_first(func.__name__)} - {Tensor.__setitem__}
_DEFINED = {func for name in _WRITTEN_DOWN.keys() - _KNOWN for func in spellings(name)}
_AT_PLACES = {
    func for name in (*names_of("lookups"), *names_of("writes"), "masked_scatter") for func in spellings(name)
}
_MOVES = {Tensor.__getitem__} | {
    func for family in ("moves", "broadcasts", "joins") for name in names_of(family) for func in spellings(name)
}
_BY_ROWS = ("matmul", "__matmul__", "mm", "mv", "linear", "layer_norm", "rms_norm")
_ROWS = {func for name in _BY_ROWS for func in spellings(name)}
_WEIGHTED, _ALONG = functions_with("weighted"), functions_with("along")
_LOSSES = {func for name in names_of("losses") for func in spellings(name)}


_QUESTIONS = {Tensor.size, Tensor.numel, vars(torch._C.TensorBase)["shape"].__get__}


def _quick() -> dict[Any, Quick]:
    rules = {op: quick for op in STEPS if (quick := sources.quickly(op)) is not None}
    rows = [row for row in ROWS if row.family == "sources" and row.op in rules]
    found = {func: rules[row.op] for row in rows for name in row.names.split() for func in spellings(name)}
    chosen: dict[str, Quick] = {op: choices.quick_position(op) for op in ("argmax", "argmin")}
    chosen |= {"topk": choices.quick_topk, "argsort": orders.quick_argsort}
    chosen |= dict.fromkeys(("to", *casts.TYPES), casts.quick_cast)
    chosen |= dict.fromkeys(QUOTIENTS, elementwise.quick_quotient)
    return found | {func: quick for name, quick in chosen.items() for func in spellings(name)}


def _quick_on() -> dict[Any, Quick]:
    named: dict[str, Quick] = {
        **dict.fromkeys(elementwise.KEEPS_WHOLE - elementwise.CASTS - elementwise.LINEAR, elementwise.quick_whole),
        **dict.fromkeys(elementwise.POLYNOMIALS, elementwise.quick_logic),
        **dict.fromkeys((elementwise.ADDS | wraps.PRODUCTS) - {"positive", "__pos__"}, elementwise.quick_linear),
        **dict.fromkeys(shape.QUICK, shape.quick_move),
        "sum": reductions.quick_sum,
        "one_hot": lookups.quick_one_hot,
        "scatter": scatters.quick_scatter,
        "scatter_add_": scatters.quick_write,
    }
    for row in ROWS:
        if row.op in reductions.COMPARED:
            named.update(dict.fromkeys(row.names.split(), reductions.quick_count(row.op)))
    found = {func: quick for name, quick in named.items() for func in spellings(name)}
    found.update({torch.where: where.quick_where, Tensor.masked_fill: where.quick_masked_fill})
    found.update(dict.fromkeys(_QUESTIONS, lambda region, func, args: func(*args)))
    return found | {Tensor.__getitem__: lookups.quick_getitem, Tensor.__setitem__: scatters.quick_write}


_LONGEST = 24
"""Values that wait for each other."""


class _Shadows(Engine):
    always = _ALL.always
    rules = _ALL.of
    quick = _quick()
    quick_on = _quick_on()

    def dispatch(self, region: Any, func: Func, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if region.selecting() and (chosen := _selection_rule(func, args, kwargs)) is not None:
            return chosen(region, func, args, kwargs, lambda: (_ALL.of.get(func) or others)(region, func, args, kwargs))
        return (_ALL.of.get(func) or others)(region, func, args, kwargs)

    def decided(self, x: Any) -> bool:
        return shadow(x) is not None

    def carried(self, x: Any) -> bool:
        return carried(x) is not None

    def selected(self, x: Any) -> bool:
        return isinstance(carried(x), Selected)

    def links(self, known: list[Tensor]) -> int:
        longest = 1
        for x in known:
            pair = x._sll  # type: ignore[attr-defined]
            if pair is not None:
                pair[0].used = True
                if pair[0].links >= longest:
                    longest = pair[0].links + 1
        return longest

    def link(self, out: Any, links: int) -> None:
        for x in out if isinstance(out, (tuple, list)) else (out,):
            pair = getattr(x, "_sll", None)
            if pair is not None and isinstance(pair[0], Shadow) and pair[0].waits():
                pair[0].links = links
                if links >= _LONGEST:
                    pair[0].settle(x)

    def undecided(self, x: Tensor) -> int:
        own = shadow(x)
        return 0 if own is None else open_elements(own.value())

    def flows(self, x: Tensor) -> list[Tensor]:
        own = shadow(x)
        if own is None:
            return []
        return [own.weights() if isinstance(own, Weights) and own.terms is None else own.value()]

    def number(self, x: Tensor) -> tuple[Tensor, Again] | None:
        own = shadow(x)
        return (own.value(), _again) if type(own) is Shadow and own.terms is None else None

    ask = staticmethod(questions.ask)
    beneath = staticmethod(transformed.beneath)
    wrapped = staticmethod(transformed.wrapped)
    viewed = staticmethod(transformed.viewed)


ENGINE = _Shadows()


def _again(region: Region, x: Tensor, number: Tensor) -> None:
    carry(region, x, Shadow(number))


def _selection_rule(func: Func, args: tuple[Any, ...], kwargs: dict[str, Any]) -> selections.SelectionRule | None:
    """What to do with what a mask selected; None if no operand is that."""
    if not any(isinstance(carried(x), Selected) for x in tensors(args, kwargs)):
        return None
    if func in SIZES:
        return selections.other
    if func in ASKS and func not in _EACH or func in _IN_PLACE or func in _DEFINED and func not in _LOSSES:
        return None
    table = [*args[func is F.embedding :], kwargs.get("weight" if func is F.embedding else "input")][0]
    if func in _AT_PLACES and not isinstance(carried(table), Selected):
        return None
    if func in _MOVES:
        return selections.moved
    if func in _EACH:
        return selections.on_elements
    if func in _LOSSES:
        return selections.loss
    if func in _ALONG:
        return selections.along
    if func in _ROWS:
        return selections.product
    return selections.reduced if func in _WEIGHTED else selections.other

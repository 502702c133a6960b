"""Programs that take a jump back: ``d - L * torch.round(d / L)``, ``i = x.long(); f = x - i``, ``x % 1``.

The ramp of a whole step has the slope of the identity. Where a rounded number is subtracted from what it was made of,
the two cancel, and a program that has a slope of its own has none in a region. So where `"auto"` chose the width:

* a rounded number that reaches the loss by such subtractions only, or as an index, has no ramp;
* a sawtooth (`remainder`, `fmod`, `frac`) keeps its own slope. What is left of its operand without it is a rounded
  number, and has the ramp of one;
* an index of boundaries passed (`searchsorted`), of which the boundary is subtracted from what has passed it, and which
  reads something else as well, has no ramp: that is an interpolation.

A `Line` is what a tensor carries that is a linear function of a `Rounded` one. Whether that has other ways to the loss
is known in backward, by comparing what arrives from subtractions with all that arrives.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, TypeAlias

import torch
from torch import Tensor
from torch.autograd.graph import Node, get_gradient_edge

from ..._ops.env import dispatched, hook, recorded, unwrapped
from ..._rules.widths import Width
from ..interface import Func, Region, Rule
from .accounts import SAW, Account, account
from .differences import added
from .quotients import QUOTIENTS
from .shadow import Other, Scaled, Shadow, carried, carry
from .terms import SUMS

PRODUCTS = {"mul", "multiply", "__mul__", "__rmul__"}
_SCALES = QUOTIENTS | PRODUCTS
_NEGATES = {"neg", "negative", "__neg__"}
_ADDS = SUMS - _NEGATES - {"positive", "__pos__"}
_BOUNDS = {"clamp", "clip", "clamp_min", "clamp_max"}
_KEEPS = (
    set("float double half bfloat16 to type type_as clone contiguous cumsum".split()) | _SCALES | _NEGATES | _BOUNDS
)

_LINEAR = set(
    """Add Sub Rsub Mul Div Neg View UnsafeView ReshapeAlias Unsqueeze Squeeze Expand Permute Transpose T Clone ToCopy
    Alias Remainder Fmod Frac""".split()
)
"""Nodes of autograd that pass a gradient on, times something, to the same element."""
_MOVES = {
    "Slice": "dim start end step", "Select": "dim index", "Index": "indices", "IndexSelect": "dim index",
    "Gather": "dim index", "Flip": "dims", "Roll": "shifts dims", "Unbind": "dim", "Cumsum": "dim",
}  # fmt: skip
"""To others: what says to which."""
_FAR = 32
"""So many nodes are looked at."""
Path: TypeAlias = "tuple[Any, ...] | None"
"""The moves on the way to a tensor; None if elements meet there."""
Edge: TypeAlias = "tuple[Node, int]"


def _step_of(op: str, args: tuple[Any, ...]) -> float | None:
    """The multiples of which number the boundaries of `op` are."""
    if op in ("remainder", "fmod", "floor_divide", "div"):
        return abs(args[1]) if isinstance(args[1], (int, float)) else None
    return 1.0 if op in ("floor", "ceil", "trunc", "frac", "cast") else None


class Rounded:
    """What `source` was rounded to: the float `x`, or an index; a `saw` is the rest of it.

    `account` is that of the numbers; `parent` is the index that `x` is the number of. Of an index, `edges` are the
    boundaries that it counts.
    """

    edges: Tensor | None = None
    ramp: Tensor | None = None
    """Of a boundary that was read: what has the gradient of its index alone."""

    def __init__(
        self, source: Tensor, x: Tensor | None = None, saw: bool = False, parent: Rounded | None = None
    ) -> None:
        self.source, self.x, self.saw, self.parent = source, x, saw, parent
        self.account = Account()
        self.subtracted: list[bool] = []
        """Not empty if it is taken away from what it was made of. (Hooks hold this, and nothing that holds tensors.)"""
        self._twin: Tensor | None = None

    @functools.cached_property
    def origins(self) -> dict[Edge, tuple[Any, ...]]:
        return _ancestors(self.source)

    def twin(self) -> Tensor:
        """`x`, to be taken away from what it was made of."""
        x: Any = self.x
        if self.saw:
            self.account.look()
            return x.detach()  # type: ignore[no-any-return]
        if self._twin is None:
            each: Rounded | None = self
            while each is not None:
                each.subtracted.append(True)
                each.account.take()
                each = each.parent
            self._twin = x.clone()
            _compare(self._twin, x if self.ramp is None else self.ramp)
        return self._twin


def _compare(twin: Tensor, x: Tensor) -> None:
    """No gradient for elements of `x` for which all that arrives comes from subtractions of its `twin`."""
    arrived: list[Tensor] = []

    def without(gradient: Tensor) -> Tensor | None:
        return torch.where(gradient == arrived.pop(), 0, gradient) if arrived else None

    hook(twin, lambda gradient: arrived.__setitem__(slice(None), [gradient]))
    hook(x, without)


class Line:
    """``then(root.x)``, a linear function; `sign` is that of its slope, and `path` where its elements have gone."""

    def __init__(
        self, root: Rounded, then: Callable[[Tensor], Tensor] | None = None, sign: int = 1, path: Path = ()
    ) -> None:
        self.root, self.then, self.sign, self.path = root, then, sign, path

    def on(self, step: Callable[[Tensor], Tensor], sign: int = 1) -> Line:
        """One more linear function, element by element."""
        before = self.then
        return Line(self.root, step if before is None else lambda t: step(before(t)), self.sign * sign, self.path)

    def moved(self, step: Callable[[Tensor], Tensor], out: Tensor) -> Line:
        """`out` are its elements in other places."""
        found = self.on(step)
        if found.path is not None and (known := recorded(out)) is not None and known.grad_fn is not None:
            found.path = (*found.path, *_move(known.grad_fn, known.output_nr))
        return found

    def meets(self, step: Callable[[Tensor], Tensor]) -> Line:
        """Its elements are added up."""
        found = self.on(step)
        found.path = None
        return found

    def made_of(self, x: Tensor) -> bool:
        """Whether `x` is what it was made of, up to linear functions: the same elements, in the same places."""
        path = self.path
        if x is self.root.source and not path:
            return True
        source, other = self.root.origins, _ancestors(x)
        if path is None:
            return not source.keys().isdisjoint(other)
        return any(key in source and (*source[key], *path) == way for key, way in other.items())

    def taken(self) -> Tensor:
        """The tensor, to be taken away from what it was made of."""
        found = self.root.twin()
        return found if self.then is None else self.then(found)


class Index(Shadow):
    """Of integers that floats were rounded to: no gradient, if the program takes their jump back."""

    def __init__(self, make: Callable[[], Tensor], other: Other, exact: Any, by_ones: bool, line: Line) -> None:
        super().__init__(make, other, exact, by_ones)
        self.line, self.rounded = line, line.root.account

    def value(self) -> Tensor:
        known, value = self._value, super().value()
        if known is None:
            root = self.line.root
            account, subtracted, edges = root.account, root.subtracted, root.edges is not None

            def without(gradient: Tensor) -> Tensor | None:
                taken = account.taken and account.reads >= (0 if subtracted and not edges else 2)
                return torch.zeros_like(gradient) if taken else None

            hook(value, without)
        return value


def line_for(
    region: Region, eps: Any, op: str, args: tuple[Any, ...], out: Tensor | None = None, saw: bool = False
) -> Line | None:
    """Of what the first of `args` was rounded to by `op`, as long as it is looked at whether the program takes the jump
    back.
    """
    source = args[0]
    if not isinstance(eps, Width) or not (eps.whole or eps.saw) or eps.skips():
        return None
    if recorded(source) is None or out is not None and recorded(out) is None:
        return None
    eps.looks -= 1
    root = Rounded(source, out, saw)
    root.account = account(region, eps, root, _step_of(op, args))
    return Line(root)


def sawtooth(region: Region, eps: Width, op: str, args: tuple[Any, ...], out: Tensor) -> Tensor:
    """`out` keeps its own slope."""
    if eps.watch is not None:
        eps.watch.keeps_slope(out.numel(), SAW)
    line = line_for(region, eps, op, args, out, True)
    return out if line is None else carry(region, out, Scaled(line))


def line_of(x: Any) -> Line | None:
    return getattr(carried(x), "line", None) if isinstance(x, Tensor) else None


def put_on(region: Region, out: Tensor, line: Line) -> Tensor:
    """`out` is on the line, or what it begins with."""
    if line.root.x is None:
        line.root.x = out
    return carry(region, out, Scaled(line))


def as_line(region: Region, x: Any, out: Any) -> Any:
    """`out` are the numbers of the index `x`, as floats."""
    own: Any = carried(x)
    rooted = getattr(own, "root", None)
    index = own if rooted is None else rooted[0]
    if type(index) is not Index or recorded(out) is None:
        return out
    if rooted is not None and not own.rises:
        return out
    rounded = Rounded(index.line.root.source, out, parent=index.line.root)
    return carry(region, out, Scaled(Line(rounded, None, index.line.sign, index.line.path)))


def read_at(region: Region, owns: list[Shadow], table: Any, out: Tensor, soft: Tensor) -> Tensor:
    """`out` with the gradient of `soft`: floats of a table, at indices that carry `owns`. If these are the boundaries
    that one index counts, they are what was rounded to them.
    """
    soft = soft.expand(out.shape)
    found, computed = added(out, soft), recorded(table)
    for own in owns:
        if own.rounded is not None:
            own.rounded.read(computed is not None and not computed.is_leaf)
    index = owns[0] if owns[0].root is None else owns[0].root[0]
    if len(owns) > 1 or not isinstance(index, Index):
        return found
    root = index.line.root
    if root.edges is None or _memory(table) != _memory(root.edges):
        return found
    line = Line(Rounded(root.source, found, parent=root))
    line.root.ramp = soft
    return carry(region, found, Scaled(line))


def on_line(func: Func, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], Line | None]:
    """The operands to call `func` with, and the line of its result."""
    name = func.__name__
    if name in _ADDS and len(args) == 2 and not kwargs:
        return _added(func, args)
    i = 0 if args and line_of(args[0]) is not None else 1
    line = line_of(args[i]) if len(args) > i else None
    if line is None or name not in _KEEPS or kwargs and name not in ("cumsum", *_BOUNDS):
        return args, None
    sign = -1 if name in _NEGATES else 1
    if name in _SCALES:
        y = args[1 - i]
        sign = -1 if isinstance(y, (int, float)) and y < 0 else 1
        if i and name not in PRODUCTS:
            return args, None
    step = functools.partial(_at, functools.partial(func, **kwargs), args, i)
    return args, line.meets(step) if name == "cumsum" else line.on(step, sign)


def _added(func: Func, args: tuple[Any, ...]) -> tuple[tuple[Any, ...], Line | None]:
    """Of a sum or a difference. An operand that is taken away from what it was made of is its twin."""
    name, line = func.__name__.strip("_").removeprefix("i"), None
    signs = (1, -1) if name in ("sub", "subtract") else (-1, 1) if name == "rsub" else (1, 1)
    lines = line_of(args[0]), line_of(args[1])
    both = None not in lines and lines[0].root.account is lines[1].root.account  # type: ignore[union-attr]
    for i, (own, other) in enumerate((signs, signs[::-1])):
        found, y = lines[i], args[1 - i]
        if found is None or both:
            continue
        if recorded(y) is None:
            line = found.on(functools.partial(_at, func, args, i), own)
        elif own * found.sign != other and found.made_of(y):
            line = Line(Rounded(y), None, other) if found.root.saw else None
            return (*args[:i], found.taken(), *args[i + 1 :]), line
    return args, line


def _at(func: Func, args: tuple[Any, ...], i: int, t: Tensor) -> Any:
    return func(*args[:i], t, *args[i + 1 :])


def in_place(rule: Rule) -> Rule:
    """``d -= L * torch.round(d / L)``; anything else is left to the `rule`."""

    def taken(region: Region, func: Func, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        operands = _added(func, args)[0] if len(args) == 2 and not kwargs else args
        return rule(region, func, args, kwargs) if operands is args else func(*operands)

    return taken


def _ancestors(x: Tensor) -> dict[Edge, tuple[Any, ...]]:
    """What `x` is a linear function of, in autograd's graph, and the moves from there."""
    known: Any = recorded(x)
    todo: list[Edge] = [(known.grad_fn or get_gradient_edge(known).node, known.output_nr)]
    found: dict[Edge, tuple[Any, ...]] = {todo[0]: ()}
    for node, nr in todo:  # (which grows)
        kind = _kind(node.name())
        if kind is None:
            continue
        path = (*_move(node, nr), *found[node, nr]) if kind in _MOVES else found[node, nr]
        for source, at in node.next_functions[: 1 if kind == "Div" else None]:
            if source is not None and (source, at) not in found:
                found[source, at] = path
                todo.append((source, at))
        if len(found) >= _FAR:
            break
    return found


@functools.cache
def _kind(name: str) -> str | None:
    """Of a node of autograd: which of these functions it stands for, if any."""
    name = name.rstrip("0123456789").removesuffix("Backward")
    return name if name in _LINEAR or name in _MOVES else None


def _move(node: Node, nr: int) -> tuple[Any, ...]:
    """The move that a node of autograd stands for, if any."""
    kind = _kind(node.name())
    if kind not in _MOVES:
        return (node,) if kind is None else ()
    said = [getattr(node, "_saved_" + which) for which in _MOVES[kind].split()]
    return ((kind, nr, *map(_told, said)),)


def _told(x: Any) -> Any:
    """An argument, as something that can be compared."""
    if isinstance(x, (tuple, list)):
        return tuple(map(_told, x))
    return (_memory(x), x.storage_offset(), x.shape) if isinstance(x, Tensor) else x


def _memory(x: Tensor) -> int:
    """Tells what tensors share memory. (While code is compiled there is none.)"""
    x = unwrapped(x)
    return id(x if x._base is None else x._base) if dispatched() else x.untyped_storage().data_ptr()

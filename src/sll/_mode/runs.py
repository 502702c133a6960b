"""One run of a function that may be run again: what Python asked in it, and what it was told."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from copy import copy
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .._carry.interface import Engine, Question, Quick, Way
from .._ops.band import closed
from .._ops.callsite import CallSite, call_site, short
from .._ops.env import tracked
from .._ops.surrogates import ordinary
from .._rules.index import op_name, spellings
from . import checkpoint
from .journal import Journal, writes
from .threads import THREAD

QUESTIONS = {
    func for name in ("__bool__", "item", "tolist", "__int__", "__float__", "__index__") for func in spellings(name)
}
QUESTIONS |= set(spellings("is_nonzero"))
_TRUTH = {Tensor.__bool__, *spellings("is_nonzero")}
_EXACT = 2.0**53
"""Up to here ``int(x)`` is what ``x.long()`` is."""


def heard(region: Any, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any] | None) -> Any:
    """Runs of functions hear of a call, if it may ask or write. Returns what Python is told where it asks for what is
    open, else NotImplemented.
    """
    asks = func in QUESTIONS
    if not (asks or kwargs or writes(func)) or not (runs := THREAD.runs):
        return NotImplemented
    runs[-1].count()
    if asks:
        return NotImplemented if kwargs else runs[-1].ask(region, func, args[0])
    for run in runs:
        run.journal.note(func, args, kwargs or {})
    return NotImplemented


def numbers_first(engine: Engine) -> Engine:
    """`engine`, for programs that compare single numbers, of which most are far from each other."""
    found = copy(engine)
    found.quick = dict(engine.quick)
    for op in _BOUNDARY:
        for func in spellings(op):
            found.quick[func] = functools.partial(_numbers, op, engine.quick.get(func))
    return found


_BOUNDARY: dict[str, Callable[..., float]] = {
    **dict.fromkeys(("gt", "ge", "lt", "le"), lambda x, at: at),
    "frac": round,
    "remainder": lambda x, by: by * round(x / by),
}
"""Of the operands of an op, the boundary that is nearest to the first one. (What is rounded lies on boundaries of what
follows, ``int()`` for one. So that it was rounded has to be known.)
"""


def _numbers(op: str, quick: Quick | None, region: Any, func: Callable[..., Any], args: tuple[Any, ...]) -> Any:
    """`Engine.quick`"""
    if _shut(op, region.fixed.get(op), args):
        return func(*args)
    return NotImplemented if quick is None else quick(region, func, args)


def _shut(op: str, eps: float | None, args: tuple[Any, ...]) -> bool:
    """Whether a number is certainly further than `eps` from where it is decided. (A policy that is asked here would
    count a decision that the rule counts again.)
    """
    if eps is None:
        return False
    numbers = []
    for x in args:
        if isinstance(x, Tensor):
            if x.numel() != 1 or not x.is_cpu or not ordinary(x) or getattr(x, "_sll", None) is not None:
                return False
            x = x.item()
        if type(x) is not float and type(x) is not int:
            return False
        numbers.append(x)
    try:
        return closed(numbers[0], _BOUNDARY[op](*numbers), eps)
    except (ArithmeticError, TypeError, ValueError):  # no number, infinite, divided by 0, other arguments
        return False


class Endless(BaseException):
    """The run asks and writes many times as often as that of the program itself."""


class Strayed(BaseException):
    """The run did not ask what the first one asked."""


class Asked(NamedTuple):
    """What was open once. `chosen`: 0 is the program's own way, others are the `ways` in order."""

    site: CallSite
    ways: list[Way]
    chosen: int


class Run:
    """`script`: what to choose of the first questions, which are those that `before` was asked. `most`: so many calls
    are enough.
    """

    def __init__(
        self,
        region: Any,
        journal: Journal,
        script: Sequence[int] = (),
        before: Sequence[Asked] = (),
        most: float = math.inf,
    ) -> None:
        self.region = region
        self.journal = journal
        self.asked: list[Asked] = []
        self.taken: dict[Any, Any] = {}
        self.calls = 0
        self._script, self._before, self._most = script, before, most
        self._level = torch._C._functorch.maybe_current_level() or 0

    @property
    def again(self) -> bool:
        """Whether it is not the run of the program itself."""
        return bool(self._script)

    def count(self) -> None:
        """A call that may ask or write."""
        self.calls += 1
        if self.calls > self._most:
            endless = Endless(f"it does not end: Python has asked {self._most} times")
            raise endless

    def replay(self) -> Callable[[], Run]:
        """A checkpoint begins: what makes the run in which it is worked out again."""
        start, taken = len(self.asked), dict(self.taken)

        def again() -> Run:
            asked = self.asked[start:]
            found = Run(self.region, Journal([]), [one.chosen for one in asked], asked)
            found.taken = dict(taken)
            return found

        return again

    def ask(self, region: Any, func: Callable[..., Any], x: Any) -> Any:
        """What Python is told of `x`. NotImplemented if nothing is open about it."""
        if region.linear is None or not torch.is_grad_enabled() or not _whole(x):
            return NotImplemented
        if x.dim() and func is Tensor.tolist and getattr(x, "_sll", None) is not None:
            found = [self.ask(region, func, row) for row in region.call(Tensor.unbind, x)]
            return [row.tolist() if value is NotImplemented else value for value, row in zip(found, x)]
        if x.numel() != 1:
            return NotImplemented
        if checkpoint.hooked():
            checkpoint.note(THREAD.regions, (x,))
        x = _in_question(region, func, x)
        if getattr(x, "_sll", None) is None:
            return NotImplemented
        engine = region.carrier_of(x)
        settled = not self.region.linear and 0 < len(self._script) <= len(self.asked)  # (a flip stands alone)
        try:
            while isinstance(found := engine.ask(x, self.taken, settled), Question):
                self.taken.update(self._choice(found, op_name(func)))
        except NotImplementedError:
            return NotImplemented
        return func(found)

    def _choice(self, question: Question, op: str) -> dict[Any, Any]:
        number, site = len(self.asked), call_site(op)
        chosen = self._script[number] if number < len(self._script) else 0
        if number < len(self._script):
            then = self._before[number]
            if site != then.site or len(question.ways) != len(then.ways):
                strayed = Strayed(f"{short(then.site)} was asked in the first run, {short(site)} in another")
                raise strayed
        ways = [Way(self._outside(way.weight), way.taken) for way in question.ways]
        self.asked.append(Asked(site, ways, chosen))
        return ways[chosen - 1].taken if chosen else question.stay

    def _outside(self, weight: Tensor) -> Tensor:
        """Of what a transform of `torch.func` wraps that ends in the run."""
        functorch = torch._C._functorch
        while functorch.is_functorch_wrapped_tensor(weight) and functorch.maybe_get_level(weight) > self._level:
            weight = functorch.get_unwrapped(weight)
        return weight.reshape(())

    def weight(self) -> Tensor:
        """The probability of its path, where ways have one."""
        found = torch.ones(())
        for asked in self.asked:
            weights = [way.weight for way in asked.ways]
            taken = weights[asked.chosen - 1] if asked.chosen else 1 - torch.stack(weights).sum()
            found = found.to(taken.device, torch.promote_types(found.dtype, taken.dtype)) * taken
        return found


def _whole(x: Any) -> bool:
    """Whether numbers can be read from it: inside `vmap` there are several."""
    functorch = torch._C._functorch
    while isinstance(x, Tensor) and functorch.is_functorch_wrapped_tensor(x):
        if functorch.is_batchedtensor(x):
            return False
        x = functorch.get_unwrapped(x)
    return isinstance(x, Tensor)


def _in_question(region: Any, func: Callable[..., Any], x: Tensor) -> Tensor:
    """What decides the answer, if not the number itself."""
    if func in _TRUTH:
        known = x.dtype != torch.bool and getattr(x, "_sll", None) is not None
        return region.call(torch.ne, x, 0) if known else x
    if func is Tensor.__int__ and x.is_floating_point() and tracked(x) and _near(region, x):
        return region.call(Tensor.long, x)  # type: ignore[no-any-return]
    return x


def _near(region: Any, x: Tensor) -> bool:
    """Whether ``int(x)`` may be open."""
    number, eps = x.detach().item(), region.eps_for("cast")
    if not abs(number) < _EXACT:
        return False
    return type(eps) is not float or not closed(number, round(number), eps)

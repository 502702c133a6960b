"""What the carriers of decisions ask of the region around them, and how a rule is called."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple, Protocol, TypeAlias, TypeVar

from torch import Tensor

from .._rules.index import function_of
from .._rules.widths import Width

Func: TypeAlias = Callable[..., Any]

OUTSIDE: dict[Any, Callable[..., Any]] = {}
"""Functions that no engine handles: copies, backward, the switch of gradients. The mode says what it does instead."""


class Region(Protocol):
    """What a rule knows of the region that calls it."""

    mode: Any
    """``"linear"``, ``"hard"`` or ``"straight-through"``."""
    linear: Any
    trace: Any
    fixed: dict[str, float]
    """The half-widths of ops that are linearized, where these are numbers and nobody watches."""

    def eps_for(self, op: str, called: str = "") -> float | Width:
        """The half-width of the op's band. `called`: what reports call it, where that is not its name."""

    def linearizes(self, op: str) -> bool:
        """Whether ``only=`` and ``exclude=`` leave it in."""

    def call(self, func: Func, *args: Any, **kwargs: Any) -> Any:
        """Run `func` as if the program had called it in the region."""

    def within(self, fn: Func, *args: Any, **kwargs: Any) -> Any:
        """Run `fn`, which is made of torch calls, as if the program had written it in the place of its call."""

    def adopt(self, x: Tensor) -> bool:
        """`x` carries something: the region takes it back at its end. False if nobody will tell it when that is."""

    def selecting(self) -> bool:
        """Whether a mask has selected something in this thread."""

    def select(self) -> None:
        """A mask has selected something."""

    def mark(self, x: Tensor, mark: Mark | None) -> None:
        """Calls are to be asked about `x`, which says `mark` from now on, if there is one."""

    def step(self) -> int:
        """Which step of this thread it is: another after a backward pass, and when a region is entered."""

    def outermost(self) -> Any:
        """The region at whose end decisions end."""

    def lose(
        self,
        op: str,
        tensors: Iterable[Tensor],
        why: str,
        *,
        undecided: Callable[[], bool] | None = None,
        origins: Iterable[Tensor] = (),
    ) -> None:
        """Count that the gradient of `tensors` ends at `op`; warn or raise if an element was in its band."""

    def approximate(self, op: str, many: int, why: str) -> None:
        """Numbers that are not followed exactly. `why`: see `sll.Report`."""

    def count_infinite(self, op: str, many: int) -> None:
        """Elements in the band at which the outcomes of `op` do not differ by a finite amount."""


class Way(NamedTuple):
    """One side of what is open where Python asks."""

    weight: Tensor
    """One element. Of a flip it is 0 and has the slope as its gradient; of an outcome it is the probability."""
    taken: dict[Any, Any]
    """What is decided with it, in the engine's own words."""


class Question(NamedTuple):
    """What is open about a number that Python asks for."""

    stay: dict[Any, Any]
    """What is decided where the program goes its own way."""
    ways: list[Way]
    """The others."""


Quick: TypeAlias = "Callable[[Region, Func, tuple[Any, ...]], Any]"
Rule: TypeAlias = Callable[[Region, Func, "tuple[Any, ...]", "dict[str, Any]"], Any]


class Carried:
    """What a tensor carries.

    It is not saved with its tensor. The region keeps it out of pickles and copies; where it cannot (another thread),
    what is saved is an empty dict, which any process can read and which says nothing.
    """

    __slots__ = ()
    links = 0
    selects = False
    """Whether a mask has selected it."""
    used = False
    """Whether the program has called anything with it."""
    within: Any = None
    """Made in a region that compiled code entered, which does not take it back: it ends with that region, or the one
    around it, all the same.
    """

    def over(self) -> bool:
        """Whether that region has ended."""
        return self.within is not None and not self.within.entered()

    def __reduce__(self) -> Any:
        return OrderedDict, ()


class Mark(Carried):
    """Of a tensor that carries no decision: what is to be done where it is used."""

    __slots__ = ()

    def met(self, region: Any, func: Func, x: Tensor, out: Any) -> None:
        """A call that autograd records has `x` among its operands, and has returned `out`."""


def attach(region: Region, x: Tensor, found: Carried | None) -> Tensor:
    """Let `x` carry something until the region ends."""
    if found is not None:
        x._sll = (found, None if x.is_inference() else x._version)  # type: ignore[attr-defined]
        if found.selects:
            region.select()
        if not region.adopt(x):
            found.within = region.outermost()
    return x


K = TypeVar("K", bound=Carried)


def held(x: Any, kind: type[K]) -> K | None:
    """What `x` carries, if it is of this kind; promises are not kept. A write that the region did not see makes it
    stale, and it is ignored.
    """
    pair = getattr(x, "_sll", None)
    if type(pair) is not tuple:  # (what is no tensor may have any attribute)
        return None
    found, version = pair
    if not isinstance(found, kind) or version is not None and version != x._version:
        return None
    return None if found.within is not None and found.over() else found


def version_of(x: Any) -> int:
    """Counts the writes into a tensor. (Those of inference mode do not tell.)"""
    try:
        return x._version if isinstance(x, Tensor) else 0
    except RuntimeError:
        return 0


def unchanged(x: Any, version: int) -> bool:
    """Whether `x` is as it was at `version`."""
    return version_of(x) == version


Again: TypeAlias = "Callable[[Any, Tensor, Tensor], object]"
"""``again(region, x, number)``: see `Engine.number`."""


class Engine:
    """How the decisions of one forward mode are carried: what a region asks of `outcomes`, `flips` and `shadows`."""

    always: Any = frozenset()
    """Functions that are handled whatever their operands are; others only if an operand carries something."""
    rules: dict[Any, Any] = {}
    """Torch function -> `Rule`."""
    quick: dict[Any, Quick] = {}
    """Torch function -> ``quick(region, func, args)``, asked first where plain autograd is all there is: what training
    loops call most, in fewer steps. It returns NotImplemented for operands that it is not for.
    """
    quick_on: dict[Any, Quick] = {}
    """The same, asked if an operand carries something."""
    again = False
    """Whether what depends on earlier decisions is decided again where it decides."""
    compiles = True
    """Whether its rules can be traced into a graph. If not, eager mode does what decides or carries anything."""

    def dispatch(self, region: Any, func: Func, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """A call of the program, with gradients on."""
        raise NotImplementedError

    def number(self, x: Tensor) -> tuple[Tensor, Again] | None:
        """What stands for all that a bool or an integer carries, in one float for each element: so a decision leaves a
        compiled graph. And what lets it carry that again. None if it takes more.
        """
        return None

    def twin(self, operator: Any) -> Any:
        """The function with a rule that an operator of ATen is, or the operator."""
        func = function_of(operator)
        return func if func in self.rules else operator

    def decided(self, x: Any) -> bool:
        """Whether `x` is a bool or integer tensor that carries a decision."""
        return False

    def carried(self, x: Any) -> bool:
        """Whether `x` carries anything."""
        return self.decided(x)

    def selected(self, x: Any) -> bool:
        """Whether `x` is what a mask selected."""
        return False

    def in_band(self, x: Tensor) -> bool:
        """Whether a decision that `x` depends on is in its band."""
        return self.undecided(x) > 0

    def beneath(self, region: Any, x: Tensor, below: Tensor) -> bool:
        """Let `below`, which a transform of torch.func wraps as `x`, carry what `x` does. False if it cannot."""
        return False

    def wrapped(self, region: Any, x: Tensor, below: Tensor) -> bool:
        """Let `x` carry what `below` does. False if it cannot."""
        return False

    def viewed(self, region: Any, x: Tensor, base: Tensor) -> None:
        """Let `x`, a view that a transform has returned, carry what `base` does."""

    def links(self, known: list[Tensor]) -> int:
        """How many values may wait for each other to be worked out, that of a function of `known` among them. 0 if none
        ever does. `known` are used now.
        """
        for x in known:
            if (pair := x._sll) is not None:  # type: ignore[attr-defined]
                pair[0].used = True
        return 0

    def link(self, out: Any, links: int) -> None:
        """`out` is the result of such a function. Python's stack bounds what may wait for each other."""

    def undecided(self, x: Tensor) -> int:
        """How many elements of `x` depend on such a decision."""
        return 0

    def flows(self, x: Tensor) -> list[Tensor]:
        """What the gradient of `x`, which is decided, would flow to."""
        return []

    def ask(self, x: Tensor, taken: dict[Any, Any], settled: bool) -> Tensor | Question:
        """What Python sees of `x`, which has one element, where `taken` is decided; a question if that leaves it open,
        unless all else is `settled`. Raises NotImplementedError where it cannot be told.
        """
        return x.detach()

    def given(self, x: Tensor, taken: dict[Any, Any]) -> Tensor:
        """A float result, where it is known to depend on what is `taken`, as it is then."""
        return x


def tensors(*args: Any) -> list[Tensor]:
    """The tensors in nested arguments."""
    found: list[Tensor] = []
    for x in args:
        if isinstance(x, Tensor):
            found.append(x)
        elif isinstance(x, (tuple, list)):
            for y in x:  # (most calls have these, and nothing further in)
                if isinstance(y, Tensor):
                    found.append(y)
                elif isinstance(y, (tuple, list, dict, slice)) and y:
                    found += tensors(y)
        elif isinstance(x, (dict, slice)) and x:
            found += tensors(*(x.values() if isinstance(x, dict) else (x.start, x.stop, x.step)))
    return found

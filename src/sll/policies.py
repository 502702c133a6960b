"""Policies: what ``eps=`` accepts beside a float.

A *policy* is asked at each call of a discrete op, and answers with a half-width in the units of that op's input. What
it sees is a `Call`: the kind of decision, half the distance to the next boundary, and a sorted sample of the distances
between the inputs and their nearest boundaries. `Coverage` turns that into the width which holds a given share of the
inputs; `Anneal` changes with time; `sll.Auto` (in `auto.py`) measures once and remembers.
"""

from __future__ import annotations

import bisect
import math
from collections.abc import Callable, Mapping
from typing import Any, Literal, Protocol, TypeAlias, runtime_checkable

import torch
from torch import Tensor

from ._ops.env import dispatched, free_to_read
from ._ops.options import did_you_mean, one_of, positive_float, shown

__all__ = ["WIDER", "Anneal", "Call", "Coverage", "Kind", "Policy", "kind_of", "quantile"]


Kind: TypeAlias = Literal["comparison", "step", "remainder", "choice", "subset", "order"]


_KINDS: tuple[tuple[Kind, str], ...] = (
    ("choice", "argmax argmin"),
    ("subset", "topk"),
    ("order", "sort kthvalue median unique"),
    ("remainder", "frac remainder fmod"),
    ("step", "round floor ceil trunc cast floor_divide div searchsorted histc"),
)
_KIND_OF: dict[str, Kind] = {op: kind for kind, ops in _KINDS for op in ops.split()}


def kind_of(op: str) -> Kind:
    """The kind of decision that the op makes, by its name in `sll.OPS`."""
    return _KIND_OF.get(op, "comparison")


# --- the protocol ------------------------------------------------------------------------------------------------


class Call:
    """One call of a discrete op, as an eps policy sees it.

    Attributes:
        kind: ``"comparison"`` (``x > t``, sign, heaviside …), ``"step"`` (round, floor, casts …), ``"remainder"``
            (``%``, fmod, frac), ``"choice"`` (argmax, argmin), ``"subset"`` (topk) or ``"order"`` (sort,
            rank, median …).
        limit: half the distance between neighbouring boundaries, beyond which no band reaches; `inf` if there is one
            boundary only.
        place: file, line and op of the program that decides, and how many decisions of that line came before in this
            step; None where that is not known (explicit functions, compiled code).
        learned: where data meet a boundary that is learned, of how many numbers that is made; otherwise 0.
    """

    __slots__ = ("_distances", "kind", "learned", "limit", "make", "place")

    def __init__(
        self, kind: Kind, limit: float, make: Callable[[], Tensor],
        place: tuple[str, int, str, int] | None = None, learned: int = 0,
    ) -> None:  # fmt: skip
        self.kind = kind
        self.limit = limit
        self.place = place
        self.learned = learned
        self.make = make
        self._distances: Tensor | None = None

    @property
    def distances(self) -> Tensor:
        """1-dim, sorted, float32 or float64, without gradient: a sample (at most 1024) of the distances to the nearest
        boundary. Exact ties and what is not finite have no distance and stand at the end, as `inf`.

        For ``"choice"`` it is how far the best entry of a row leads the next, for ``"subset"`` how far entries are from
        the middle between the last one taken and the first one left, for ``"order"`` how far two entries of a row are
        apart.
        """
        if self._distances is None:
            d = self.make().abs()
            self._distances = torch.where((d > 0) & d.isfinite(), d, math.inf).sort().values
        return self._distances


@runtime_checkable
class Policy(Protocol):
    """Any object with this method can be an ``eps``.

    It has to answer alike as long as nothing is changed: one decision may be asked for twice. Return a positive float
    or a 0-dim tensor; wider than ``call.limit`` means the whole step. Distances of `inf` are ties and what is not
    finite: leave them out. While compiling, and on other devices than the
    CPU, compute with tensors: ``float(tensor)`` would wait for the device.

    Example:
        >>> import torch, sll
        >>> class Spread:
        ...     "Half the mean distance."
        ...     def half_width(self, call):
        ...         d = call.distances
        ...         return 0.5 * d[d.isfinite()].mean()
        >>> x = torch.tensor([-3.0, -1.0, 1.0, 3.0], requires_grad=True)
        >>> with sll.linearize(Spread()):
        ...     torch.sign(x).sum().backward()
        >>> x.grad
        tensor([0., 1., 1., 0.])
    """

    def half_width(self, call: Call, /) -> float | Tensor: ...


WIDER = 1 + 4e-7
"""A little wider, so that rounding does not push the last element out of the band."""


def quantile(distances: Tensor, share: float | Tensor) -> float | Tensor:
    """The smallest width that holds `share` of the finite distances; 1 if there are none. A number where reading the
    distances costs nothing.
    """
    if distances.shape[0] == 0:
        return 1.0 if free_to_read(distances) else distances.new_ones(())
    if free_to_read(distances):  # a dozen ops on numbers take as long as one on a tensor
        numbers = distances.tolist()
        finite = bisect.bisect_left(numbers, math.inf)
        return numbers[max(math.ceil(finite * float(share) - 1e-6) - 1, 0)] * WIDER if finite else 1.0
    # Without reading a number from the device: how many are finite is data.
    many = distances.isfinite().sum()
    at = ((many.double() * share - 1e-6).ceil().long() - 1).clamp(min=0)
    found = distances.gather(0, at.reshape(1)).squeeze(0)
    return torch.where(many > 0, found * WIDER, 1.0)


class Coverage:
    """The band that holds a given share of the inputs, for each call anew.

    The share is that of the inputs which are not exactly on a boundary, estimated from at most 1024 of them. Where
    steps leave no room (``round`` has none beyond half a step) the whole step is the band.

    Args:
        share: above 0, up to 1.

    Raises:
        TypeError, ValueError: if `share` is not as described.

    Example:
        >>> import torch, sll
        >>> x = torch.tensor([-3.0, -1.0, 0.5, 2.0], requires_grad=True)
        >>> with sll.linearize(sll.Coverage(0.5)):
        ...     torch.sign(x).sum().backward()
        >>> x.grad
        tensor([0.0000, 1.0000, 1.0000, 0.0000])
    """

    def __init__(self, share: float) -> None:
        self.share = positive_float(share, "share", "the share of the inputs that the band holds")
        if self.share > 1:
            percent = f"; for {share:g} % write {share / 100:g}" if share > 2 and share <= 100 else ""
            raise ValueError(f"share must be at most 1 (all inputs), got {share!r}{percent}")

    def half_width(self, call: Call, /) -> float | Tensor:
        return quantile(call.distances, self.share)

    def __repr__(self) -> str:
        return f"sll.Coverage({self.share:g})"


class Anneal:
    """A width that changes while you train: wide bands find the way, narrow ones fit what is deployed.

    Make it once, before the loop, and call `step` once per optimizer step (or epoch); after `steps` of them the width
    stays at `end`.

    Args:
        start: the first half-width, a positive float in the units of the ops' inputs; or a `Coverage`, whose share is
            then annealed.
        end: the last one, a float or a `Coverage` as `start` is.
        steps: how many calls of `step` lead from `start` to `end`; a positive integer.
        kind: ``"geometric"`` (equal factors), ``"linear"`` or ``"cosine"`` (slow at both ends).

    Raises:
        TypeError, ValueError: naming the argument that is not as described.

    Example:
        >>> import sll
        >>> eps = sll.Anneal(1.0, 0.01, steps=2)
        >>> region = sll.linearize(eps)
        >>> for _ in range(3):
        ...     print(round(eps.value, 4))
        ...     eps.step()
        1.0
        0.1
        0.01
    """

    def __init__(
        self,
        start: float | Coverage,
        end: float | Coverage,
        steps: int,
        kind: Literal["geometric", "linear", "cosine"] = "geometric",
    ) -> None:
        for name, value in (("start", start), ("end", end)):
            if isinstance(value, (str, type)):
                raise TypeError(f"{name} must be a float or a share such as sll.Coverage(0.5), got {shown(value)}")
        if isinstance(start, Coverage) != isinstance(end, Coverage):
            raise TypeError(
                f"start and end must both be floats or both be sll.Coverage, got {start!r} and {end!r}; "
                "a width and a share have nothing between them"
            )
        self._of_share = isinstance(start, Coverage)
        self.start = start.share if isinstance(start, Coverage) else positive_float(start, "start")
        self.end = end.share if isinstance(end, Coverage) else positive_float(end, "end")
        if isinstance(steps, bool) or not isinstance(steps, int):
            raise TypeError(f"steps must be an integer (calls of step()), got {shown(steps)}; int(steps) makes it one")
        if steps < 1:
            raise ValueError(f"steps must be at least 1, got {steps}; for a width that stays pass eps={self.end!r}")
        self.steps = steps
        kinds = ("geometric", "linear", "cosine")
        self.kind = one_of(kind, "kind", kinds, did_you_mean(kind, kinds) or "; equal factors are geometric")
        self._done = 0
        # A tensor, so that compiled code gets it as an input and is not compiled again at each step.
        self._now = torch.tensor(self.value, dtype=torch.float64, device="cpu")

    @property
    def value(self) -> float:
        """The half-width of now; of two `Coverage`, the share."""
        t = min(self._done / self.steps, 1.0)
        if t == 1.0:
            return self.end
        if self.kind == "geometric":
            return float(self.start * (self.end / self.start) ** t)
        if self.kind == "cosine":
            t = (1 - math.cos(math.pi * t)) / 2
        return self.start + t * (self.end - self.start)

    def step(self) -> None:
        """One step further."""
        self._done += 1
        self._now.fill_(self.value)

    def state_dict(self) -> dict[str, Any]:
        """What `load_state_dict` needs to go on from here: the number of steps done."""
        return {"done": self._done}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where `state_dict` was taken. Raises KeyError or ValueError if `state` is something else."""
        if "done" not in state:
            raise KeyError(
                "state must be what Anneal.state_dict() returned, with an entry 'done', got one with the entries "
                f"{list(state)}; is it the state of something else, or of all, such as a checkpoint?"
            )
        done = state["done"]
        if isinstance(done, bool) or not isinstance(done, int) or done < 0:
            raise ValueError(
                f"state['done'] must be a number of steps (int, at least 0), got {shown(done)}; "
                "pass what Anneal.state_dict() returned"
            )
        self._done = done
        self._now.fill_(self.value)

    def half_width(self, call: Call, /) -> float | Tensor:
        if self._of_share:
            return quantile(call.distances, self._now)
        return self._now if dispatched() else self.value

    def __repr__(self) -> str:
        what = "sll.Coverage({:g})" if self._of_share else "{:g}"
        start, end = what.format(self.start), what.format(self.end)
        return f"sll.Anneal({start}, {end}, steps={self.steps}, kind={self.kind!r}) after {self._done} steps"

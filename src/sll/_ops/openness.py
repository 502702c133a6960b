"""Which elements of a surrogate depend on a decision in its band: the graph is asked, by differentiating it."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import Tensor

from .blend import TAKEN
from .env import dispatched, outside_of_transforms, readable, unwrapped
from .origins import origin
from .saving import saved_as_then
from .surrogates import kept, window

_MARK = "sll: scores come in here"
MADE = "sll: a mask or an integer became it"
_BANDS = ("_RampBackward", "_BandOffsetBackward", "_ChosenBackward")
_WINDOW = "HardtanhBackwardBackward0"
_WHOLE = "AliasBackward0_copy"
_MOST_NODES = 10_000


def scores(x: Tensor) -> Tensor:
    """`kept`, for a choice or an order among the elements of `x`."""
    return marked(kept(x))


def marked(found: Tensor) -> Tensor:
    """The same scores, once they are known to open_elements."""
    node: Any = found.grad_fn
    if node is not None:
        node.metadata[_MARK] = True
    return found


def made_from(own: Any, x: Tensor) -> Tensor:
    """`x`, a float that was a mask (`own`: None), a count (True) or an integer that carries that. Its node says so."""
    node: Any = x.grad_fn
    if node is not None:
        node.metadata[MADE] = own
    return x


class _Asking(threading.local):
    now = False


_ASKING = _Asking()


def asking() -> bool:
    """Whether a graph is differentiated to be asked: the gradients are none of the program's."""
    return _ASKING.now


def open_elements(value: Tensor) -> int:
    """How many elements of a surrogate depend on a decision in its band."""
    found = open_mask(value)
    return found * value.numel() if isinstance(found, bool) else int(found.sum())


def open_mask(value: Tensor) -> Tensor | bool:
    """Which elements those are: the ones on which some input has an effect. A bool holds for all."""
    functorch = torch._C._functorch
    while functorch.is_functorch_wrapped_tensor(value) and functorch.is_batchedtensor(value):
        value = functorch.get_unwrapped(value)  # the graph is that of the whole batch
    if not value.requires_grad or asking():  # (a checkpoint that is asked runs its function again, which asks)
        return False
    if dispatched():  # (a compiler traces: any may be)
        return True
    edges = _inputs_of_bands(value.grad_fn)
    if edges is None:
        return True
    _ASKING.now = True
    try:
        if functorch.is_functorch_wrapped_tensor(value):
            return _any_reached_from(edges, value)
        with outside_of_transforms():
            return saved_as_then(None, lambda: _reached_from(edges, value))
    except RuntimeError:  # backward has freed the graph, or hooks have it: it cannot be told
        return True
    finally:
        _ASKING.now = False


def just_decided(x: Tensor) -> bool:
    """Whether a float was decided, and but for its place and a factor nothing else; and is open. (What `where` has
    taken may be anything.)
    """
    nodes: list[Any] = [x.grad_fn]
    for node in nodes:
        while type(node).__name__ in _KEEPS:
            node = node.next_functions[0][0]
        if type(node).__name__ in _JOINS:
            nodes += [part for part, _ in node.next_functions]
        elif node is not None and type(node) is not TAKEN and of_a_region(node):
            return open_behind(x.grad_fn)
    return False


_JOINS = {"CatBackward0", "StackBackward0"}
MOVES = set("View UnsafeView Unsqueeze Squeeze Permute Transpose T Expand ToCopy Clone Alias LazyClone".split())
MOVES = {f"{name}Backward0" for name in MOVES}
_KEEPS = MOVES | {"MulBackward0", "NegBackward0"}


def open_behind(node: Any) -> bool:
    """Whether anything is open on which the tensor with this node depends."""
    return bool(_open(node))


def open_bands(value: Tensor) -> frozenset[Any]:
    """What stands for the bands in which something is on which a surrogate depends. The same question, asked again, is
    at the same distance from the same numbers.
    """
    return _open(value.grad_fn) if value.requires_grad else frozenset()


def _open(node: Any) -> frozenset[Any]:
    edges = _inputs_of_bands(node)
    if edges is None:
        return frozenset([node])
    found = set()
    for edge in edges:
        node = edge.node
        if type(node).__name__ != _WINDOW:
            found.add((node, edge.output_nr))
            continue
        d = node._saved_self.detach()
        if d.numel() == 1:
            at = d.item()
            if node._saved_min_val < at < node._saved_max_val:
                found.add((origin(node.next_functions[0][0]), at))
        elif bool(((d > node._saved_min_val) & (d < node._saved_max_val)).any()):
            found.add((node, 0))
    return frozenset(found)


def _reached_from(edges: list[Any], value: Tensor) -> Tensor | bool:
    """The effect of all inputs at once, each moved by another number: the derivative by `v` of the gradient for `v`."""
    if not edges:
        return False
    v = torch.ones_like(value, requires_grad=True)
    with torch.enable_grad():
        found = torch.autograd.grad(value, edges, v, create_graph=True, allow_unused=True)
        inside = [_within(edge, g) for edge, g in zip(edges, found) if g is not None and g.requires_grad]
        reached = [(g * _numbers(g)).sum() for g in inside]
        if not reached:
            return False
        (effect,) = torch.autograd.grad(torch.stack(reached).sum(), v)
    return effect != 0


def _any_reached_from(edges: list[Any], value: Tensor) -> bool:
    """The same inside a transform of `torch.func`, where nothing is to require grad."""
    if not edges:
        return False
    weights = _numbers(unwrapped(value)).reshape(-1)[: value.numel()].reshape(value.shape)
    found = torch.autograd.grad(value, edges, weights, create_graph=True, allow_unused=True)
    return any(bool((known != 0).any()) for g in found if g is not None and (known := readable(g)) is not None)


def _numbers(like: Tensor) -> Tensor:
    """Numbers that add up to nothing known. (The program's random numbers are its own.)"""
    numbers = torch.arange(1, like.numel() + 1, dtype=torch.float64, device=like.device) * 0.6180339887498949
    return (1 + numbers.frac()).to(like.dtype).reshape(like.shape)


def _within(edge: Any, g: Tensor) -> Tensor:
    """The gradient that a window lets pass, without asking who else wants to know what its input gets."""
    node = edge.node
    if type(node).__name__ != _WINDOW:
        return g
    return window(g, node._saved_self, node._saved_min_val, node._saved_max_val)


def _inputs_of_bands(last: Any) -> list[Any] | None:
    """The edges of the graph at which the floats come in on which a tensor decides; None if they are not found."""
    edges: dict[Any, Any] = {}
    todo: list[Any] = [last]
    seen: set[Any] = set()
    while todo:
        node = todo.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if _comes_in(node):
            edges[node, 0] = torch.autograd.graph.GradientEdge(node, 0)
        elif _is_band(node):
            for parent, number in node.next_functions:
                if parent is not None:
                    edges[parent, number] = torch.autograd.graph.GradientEdge(parent, number)
        elif type(node).__name__ == "AccumulateGrad" or len(seen) > _MOST_NODES:
            return None
        else:
            todo.extend(parent for parent, _ in node.next_functions)
    return list(edges.values())


def behind(nodes: Iterable[Any], what: Callable[[Any], Any], most: int = _MOST_NODES) -> Iterator[Any]:
    """What `what` finds in the graph behind these nodes, the nearest first; it does not look behind what it finds."""
    todo = deque(nodes)
    seen: set[Any] = set()
    while todo and len(seen) < most:
        node = todo.popleft()
        if node is None or node in seen:
            continue
        seen.add(node)
        if found := what(node):
            yield found
        else:
            todo.extend(parent for parent, _ in node.next_functions)


def of_a_region(node: Any) -> bool:
    """Whether only a region makes such a node of a graph."""
    made = getattr(type(node), "_forward_cls", None)
    return _comes_in(node) or getattr(made, "__module__", "").startswith("sll.")


def _comes_in(node: Any) -> bool:
    """Whether scores come in there, or what a window lets pass, or whole steps."""
    return _MARK in node.metadata or type(node).__name__ in (_WINDOW, _WHOLE)


def _is_band(node: Any) -> bool:
    """Some ramps are a clamp between ``-h`` and ``h``; clamps of what is decided already rarely are."""
    kind = type(node).__name__.removeprefix("Vmapped").replace("Generated", "")  # (as transforms call them)
    if kind == "ClampBackward1":
        low, high = node._saved_min, node._saved_max
        return low is not None and high is not None and low == -high
    return kind == "ClampBackward0" or kind in _BANDS

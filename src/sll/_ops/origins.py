"""Whether two floats were computed in the same way from the same leaves: then a decision about either is the same."""

from __future__ import annotations

import functools
from typing import Any, cast

from torch import Tensor
from torch.autograd.function import BackwardCFunction

_MOST = 200
"""Of longer graphs only the node itself is known."""
_SMALL = 64


def origin(node: Any) -> Any:
    """What stands for a node of autograd's graph: equal for one that computes the same from the same leaves, as far as
    its derivative goes. (Numbers that are added have none. So compare the result as well.)
    """
    known: dict[Any, int] = {}
    try:
        return _hashed(node, known)
    except (RuntimeError, _Unknown):  # freed, or not to be read
        return node


class _Unknown(Exception):
    pass


def _hashed(node: Any, known: dict[Any, int]) -> int:
    if node is None:
        return 0
    found = known.get(node)
    if found is None:
        if len(known) >= _MOST:
            raise _Unknown
        if type(node).__name__ == "AccumulateGrad":
            found = hash(("leaf", id(node.variable)))
        elif isinstance(node, BackwardCFunction):
            found = hash(node)  # written in Python: what it has saved cannot be read
        else:
            parents = tuple((_hashed(parent, known), number) for parent, number in node.next_functions)
            saved = tuple(_value(getattr(node, name)) for name in _saved(cast(Any, type(node))))
            found = hash((type(node).__name__, parents, saved))
        known[node] = found
    return found


@functools.cache
def _saved(kind: type) -> tuple[str, ...]:
    return tuple(name for name in dir(kind) if name.startswith("_saved_"))


def _value(x: Any) -> Any:
    if isinstance(x, Tensor):
        return tuple(x.detach().reshape(-1).tolist()) if x.numel() <= _SMALL else (x.data_ptr(), x._version, x.shape)
    if isinstance(x, (tuple, list)):
        return tuple(map(_value, x))
    return x if isinstance(x, (int, float, str, bool, type(None))) else str(x)

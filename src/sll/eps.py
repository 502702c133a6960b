"""What users pass as ``eps=``: a half-width, ``"auto"``, a policy, or a mapping from op names to these."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, TypeAlias

from ._ops.options import HALF_WIDTH, did_you_mean, op_names, positive_float
from .auto import AUTO, Auto
from .policies import Policy

__all__ = ["Eps", "OneEps", "checked", "widths"]

OneEps: TypeAlias = "float | Literal['auto'] | Policy"


Eps: TypeAlias = "OneEps | Mapping[str, OneEps]"


def checked(eps: Any, name: str = "eps") -> float | Policy:
    """A half-width or a policy."""
    if type(eps) is float:  # (asking whether it is a policy takes longer than most calls)
        return positive_float(eps, name, HALF_WIDTH, "")
    if isinstance(eps, str):
        if eps != "auto":
            remedy = f"; float({eps!r}) makes it one" if _is_number(eps) else did_you_mean(eps.lower(), ("auto",))
            raise ValueError(
                f'{name} must be a positive float, "auto", or a policy such as sll.Coverage, got {eps!r}{remedy}'
            )
        return AUTO
    if isinstance(eps, type) and hasattr(eps, "half_width"):
        raise TypeError(f"{name} must be a policy, got the class {eps.__name__}; make one: {eps.__name__}(...)")
    if isinstance(eps, Policy):
        return eps
    return positive_float(eps, name, HALF_WIDTH, '; "auto" and objects with a method half_width(call) are policies')


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def widths(eps: Any, known: Mapping[str, str]) -> tuple[float | Policy, dict[str, float | Policy]]:
    """The default and the exceptions per op. ``"auto"`` has a memory of its own, for all ops."""
    if not isinstance(eps, Mapping):
        found = checked(eps)
        return Auto() if found is AUTO else found, {}
    auto = Auto()
    table: dict[str, float | Policy] = {}
    for op, value in eps.items():
        if op != "default":
            op_names([op], "eps", known)
        given = checked(value, f"eps[{op!r}]")
        table[op] = auto if given is AUTO else given
    if "default" not in table:
        raise ValueError(
            f"eps must have a 'default' entry beside {sorted(table)}, for the ops that are not named; "
            'write {"default": "auto", ...}'
        )
    return table.pop("default"), table

"""One width on all ranks of a distributed program: what rank 0 has measured, the others take.

Ranks see other shares of the data, so each would measure another width, and their mean gradient would be that of no
program. Rank 0 leaves what it keeps in the store of the default process group. That is no collective: a rank that does
not decide at a line keeps nobody waiting for good.
"""

from __future__ import annotations

import json
import warnings
from datetime import timedelta
from typing import Any

import torch

WAIT = timedelta(seconds=10)
"""So long a rank waits for rank 0, which is at most a step behind; once in a program, if nothing comes."""
_MANY: dict[Any, int] = {}
"""How many memories have kept a width of a place: which of them it is has no other name that all ranks know."""
_patient = True


def agreed(place: tuple[Any, ...], own: tuple[float, bool]) -> tuple[float, bool]:
    """What rank 0 keeps at `place`: the width, and whether the sides meet there. What this rank has found, its `own`,
    if it is the only one, or rank 0, or if rank 0 does not decide there.
    """
    dist: Any = torch.distributed
    if not (dist.is_available() and dist.is_initialized()) or dist.get_world_size() == 1:
        return own
    many = _MANY[place] = _MANY.get(place, 0) + 1
    store = dist.PrefixStore("sll", dist.distributed_c10d._get_default_store())
    key = " ".join(map(str, (*place, many)))
    if dist.get_rank() == 0:
        store.set(key, json.dumps(own))
    elif _is_there(store, key, place):
        half, meet = json.loads(store.get(key))
        return float(half), bool(meet)
    return own


def _is_there(store: Any, key: str, place: tuple[Any, ...]) -> bool:
    global _patient
    if not _patient:
        return bool(store.check([key]))
    try:
        store.wait([key], WAIT)
    except RuntimeError:  # (torch 2.4 and later: DistStoreError, which is one)
        _patient = False
        warnings.warn(
            f"rank {torch.distributed.get_rank()} has waited {WAIT.seconds} s for the width of rank 0 at {place[0]}:"
            f"{place[1]}, and keeps its own, for rank 0 does not decide there; it does not wait again. If all ranks "
            "run one program, let rank 0 have data that reach this line, or load a memory: "
            "auto.load_state_dict(state) on each rank",
            stacklevel=2,
        )
        return False
    return True

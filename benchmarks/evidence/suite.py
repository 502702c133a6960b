"""All tasks of the evidence, in the order of the tables."""

from __future__ import annotations

from further import FURTHER, HELD_BACK
from tasks import TASKS as FIRST
from tasks import Task

__all__ = ["FIRST", "HELD_BACK", "TASKS"]

TASKS: dict[str, Task] = {**FIRST, **FURTHER}

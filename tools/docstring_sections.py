"""For the API pages: how our docstrings differ from what mkdocstrings reads.

We write ``Example:`` above one example. Griffe knows the plural only, and would set the singular as a box of quotes.
"""

from __future__ import annotations

import re
from typing import Any

import griffe


class DocstringSections(griffe.Extension):
    """Reads ``Example:`` as ``Examples:``."""

    def on_object(self, *, obj: griffe.Object, **kwargs: Any) -> None:
        if obj.docstring is not None:
            obj.docstring.value = re.sub(r"^Example:$", "Examples:", obj.docstring.value, flags=re.MULTILINE)

"""Pictures: the public face of `sll.tools.plot`, under the name that programs import."""

from ._reports.picture import COLORS, LINES, style
from .tools.plot import compare, op, report

__all__ = ["COLORS", "LINES", "compare", "op", "report", "style"]

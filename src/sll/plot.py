"""Pictures: the public face of `sll.tools.plot`, under the name that programs import."""

from .tools.plot import COLORS, LINES, compare, op, report, style

__all__ = ["COLORS", "LINES", "compare", "op", "report", "style"]

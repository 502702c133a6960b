"""Static Local Linearization: discrete PyTorch programs with derivatives, unedited.

with sll.linearize(eps=1e-2):
    loss = program(x)  # sign, round, x > 0, integer lookups … all have a derivative here
    loss.backward()
"""

from typing import TYPE_CHECKING

__version__ = "3.0.0.dev0"

if TYPE_CHECKING:
    from ._public import *  # noqa: F403
else:

    def __getattr__(name):
        """All public names come with the first that is asked for: ``sll --help`` does not wait for torch."""
        import importlib

        public = importlib.import_module("._public", __name__)
        for each in ("__all__", *getattr(public, "__all__", ())):  # none while it is being imported itself
            globals()[each] = getattr(public, each)
        if name not in globals():
            raise AttributeError(f"module 'sll' has no attribute {name!r}")
        return globals()[name]

    def __dir__():
        return sorted({*globals(), *__getattr__("__all__")})

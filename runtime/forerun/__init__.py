"""forerun: runs a compiled speculative decoding bundle.

import forerun

with forerun.load("artifacts/demo") as engine:
    print(engine.generate("import os", max_new_tokens=64).text)
"""

from forerun._core import VERSION as __version__
from forerun._core import Facts, Round
from forerun.costs import Costs
from forerun.device import Choice
from forerun.engine import Engine
from forerun.errors import ForerunError
from forerun.generation import Generation, Stream
from forerun.loading import load
from forerun.operators import kernel_library
from forerun.rounds import Rounds
from forerun.statistics import Statistics

__all__ = [
    "Choice",
    "Costs",
    "Engine",
    "Facts",
    "ForerunError",
    "Generation",
    "Round",
    "Rounds",
    "Statistics",
    "Stream",
    "__version__",
    "kernel_library",
    "load",
]

"""Machines that are not here: programs for TPUs and GPUs, compiled by their own compilers, and what those say of them.

``pip install "jaxnn-torch[compile-tpu]"`` or ``[compile-cuda]`` brings the compiler; no device is needed.
"""

from jaxnn.base.names import public_names as _public_names
from jaxnn.targets.collectives import Collective as Collective
from jaxnn.targets.compiling import Compiled as Compiled
from jaxnn.targets.compiling import compile as compile
from jaxnn.targets.compiling import lower as lower
from jaxnn.targets.costs import Cost as Cost
from jaxnn.targets.planning import Attempt as Attempt
from jaxnn.targets.planning import Layout as Layout
from jaxnn.targets.planning import Plans as Plans
from jaxnn.targets.planning import plan as plan
from jaxnn.targets.profiling import Profile as Profile
from jaxnn.targets.profiling import Share as Share
from jaxnn.targets.profiling import profile as profile
from jaxnn.targets.reporting import Report as Report
from jaxnn.targets.reporting import report as report
from jaxnn.targets.target import Chip as Chip
from jaxnn.targets.target import Target as Target
from jaxnn.targets.target import get as get
from jaxnn.targets.target import is_installed as is_installed


def __dir__() -> list[str]:
    return _public_names(globals())

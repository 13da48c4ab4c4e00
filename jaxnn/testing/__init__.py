"""Tools that show that a ported model is the model it was ported from, and what error an accelerator adds."""

from jaxnn.base.names import public_names as _public_names
from jaxnn.testing.arithmetic import emulate as emulate
from jaxnn.testing.compare import Comparison as Comparison
from jaxnn.testing.compare import compare as compare
from jaxnn.testing.trace import Trace as Trace
from jaxnn.testing.trace import record as record


def __dir__() -> list[str]:
    return _public_names(globals())

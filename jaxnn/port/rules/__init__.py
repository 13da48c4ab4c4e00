"""The table of rules: which JAX text stands for which torch operation. The rewriter, docs/porting.md and the tests read it."""

from jaxnn.port.rules.row import Parameter as Parameter
from jaxnn.port.rules.row import Place as Place
from jaxnn.port.rules.row import Row as Row
from jaxnn.port.rules.row import Template as Template
from jaxnn.port.rules.table import EXAMPLES as EXAMPLES
from jaxnn.port.rules.table import TABLE as TABLE
from jaxnn.port.rules.table import every_row as every_row
from jaxnn.port.rules.table import load_untested as load_untested
from jaxnn.port.rules.table import rows as rows
from jaxnn.port.rules.tested import key_of as key_of

"""A share of the tests: with ``JAXNN_TEST_SHARE=3`` each test function runs for every third of its parameters.

For a second run of the suite, on another JAX: the first has run them all.
"""

import collections
import os

SHARE = int(os.environ.get("JAXNN_TEST_SHARE", "1"))


def of(items):
    """The items of the share, in order: of each function its first, and so on.

    Whole are modules that take a share of their own: ``TAKES_A_SHARE``.
    """
    seen = collections.Counter()
    taken = []
    for item in items:
        function = item.path, getattr(item, "originalname", item.name)
        if seen[function] % SHARE == 0 or getattr(item.module, "TAKES_A_SHARE", False):
            taken.append(item)
        seen[function] += 1
    return taken

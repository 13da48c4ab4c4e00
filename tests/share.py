"""A share of the generated tests: ``JAXNN_TEST_SHARE=3`` runs every third of them.

For a second run of the suite, on another JAX: the first has run them all.
"""

import os

SHARE = int(os.environ.get("JAXNN_TEST_SHARE", "1"))

# One test for each class, function or shape, and many of a kind.
GENERATED = ("functional/test_convolution_forms.py", "transforms/test_interop.py", "transforms/test_shard_map.py")

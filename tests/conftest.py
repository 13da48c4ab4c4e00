"""Settings of the whole suite: two CPU devices, fixed seeds, no persistent state between tests."""

import os

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=2"

import hypothesis
import numpy as np
import pytest

import jaxnn as nn

hypothesis.settings.register_profile("default", deadline=None, max_examples=25, derandomize=True)
hypothesis.settings.load_profile("default")


@pytest.fixture(autouse=True)
def _seeds():
    nn.manual_seed(0)
    np.random.seed(0)


@pytest.fixture
def leak_checker():
    """Tracer leaks raise inside the test."""
    import jax

    with jax.checking_leaks():
        yield

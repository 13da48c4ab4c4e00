"""Settings of the whole suite: two CPU devices, fixed seeds, no persistent state between tests."""

import gc
import os

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=2"

import hypothesis
import jax
import numpy as np
import pytest

import jaxnn as nn

hypothesis.settings.register_profile("default", deadline=None, max_examples=25, derandomize=True)
hypothesis.settings.load_profile("default")


@pytest.fixture(autouse=True)
def _seeds():
    nn.manual_seed(0)
    np.random.seed(0)


@pytest.fixture(scope="module", autouse=True)
def _no_compiled_code_is_kept():
    """Thousands of compiled functions slow Python's collector down, and a worker's memory would reach gigabytes."""
    yield
    jax.clear_caches()
    gc.collect()


@pytest.fixture
def leak_checker():
    """Tracer leaks raise inside the test."""
    with jax.checking_leaks():
        yield

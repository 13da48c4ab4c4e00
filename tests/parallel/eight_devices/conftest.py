"""These tests need eight devices: ``JAXNN_TEST_DEVICES=8 pytest tests/parallel/eight_devices``, as test_meshes.py does."""

import jax
import pytest


def pytest_ignore_collect(collection_path, config):
    return True if jax.device_count() < 8 else None


@pytest.fixture
def mesh():
    """Two by four."""
    from jaxnn.parallel import init_device_mesh

    return init_device_mesh("cpu", (2, 4), mesh_dim_names=("fsdp", "tp"))

"""Settings of the whole suite: two CPU devices, fixed seeds, quick compilation, no persistent state between tests.

``JAXNN_TEST_DEVICES`` asks for another number of devices.
"""

import gc
import os
import pathlib

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ["XLA_FLAGS"] = (
    os.environ.get("XLA_FLAGS", "")
    + " --xla_force_host_platform_device_count="
    + os.environ.get("JAXNN_TEST_DEVICES", "2")
)

# Collectives that run side by side wait for each other: XLA needs more threads than it takes by itself.
os.environ.setdefault("NPROC", str(8 * int(os.environ.get("JAXNN_TEST_DEVICES", "2"))))

# torch's threads spin while they wait: two workers of tests would take each other's cores.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import hypothesis
import jax
import numpy as np
import pytest
from jax._src import compiler

import jaxnn as nn
from parity import ours
from tests import share

hypothesis.settings.register_profile("default", deadline=None, max_examples=25, derandomize=True)
hypothesis.settings.load_profile("default")

# Files that take a minute or nearly, the longest first: begun last, one would keep one worker while the others are done.
LONG_FILES = (
    "parity/test_replay.py",
    "parallel/test_meshes.py",
    "test_package.py",
    "examples/test_scale.py",
    "port/test_proving.py",
    "parallel/test_checkpoint.py",
    "parallel/test_process_group.py",
    "io/test_bounds.py",
    "parity/test_hunt.py",
    "test_docs.py",
    "test_training.py",
)


def pytest_collection_modifyitems(config, items):
    here = pathlib.Path(__file__).parent
    place = {here / name: number for number, name in enumerate(LONG_FILES)}
    items.sort(key=lambda item: place.get(item.path, len(place)))
    taken = share.of(items)
    kept = set(taken)
    if len(taken) < len(items):
        config.hook.pytest_deselected(items=[item for item in items if item not in kept])
        items[:] = taken


def pytest_collection_finish():
    """Python's collector looks through what a test makes, not through torch and the whole suite again.

    With all tests collected those are millions of objects: each full collection, two of them a file, took as long as
    many a file. What is garbage goes after each file.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(100_000, 20, 20)  # tracing makes many objects, of which few are garbage


@pytest.fixture(autouse=True)
def _seeds():
    nn.manual_seed(0)
    np.random.seed(0)


ours.compile_once()


@pytest.fixture(scope="module", autouse=True)
def _compilation(request):
    """Programs are compiled without LLVM's optimisation, which takes most of the time of a test, and changes no graph.

    Files about what XLA makes of a program say ``COMPILATION = "full"``; ``JAXNN_COMPILATION=full`` is for all of them.
    """
    asked = os.environ.get("JAXNN_COMPILATION") or getattr(request.module, "COMPILATION", "quick")
    with pytest.MonkeyPatch.context() as patch:
        if asked == "quick":
            patch.setattr(compiler, "get_compile_options", ours.quickly(compiler.get_compile_options))
        yield


@pytest.fixture(scope="module", autouse=True)
def _no_compiled_code_is_kept():
    """Thousands of compiled functions slow Python's collector down, and a worker's memory would reach gigabytes.

    What a file made and left goes with it; all objects are looked through again where many were let go.
    """
    yield
    gc.collect(2 if ours.forget_programs(over=500) else 1)


@pytest.fixture
def leak_checker():
    """Tracer leaks raise inside the test."""
    with jax.checking_leaks():
        yield

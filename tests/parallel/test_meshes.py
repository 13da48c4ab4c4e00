"""What is trained on a mesh is what one device trains; arrays stay where they were put; errors. In one child process."""

import subprocess
import sys

from tests.parallel import scaled

# All models on all meshes: python -m tests.parallel.scaled
SOME = ("--models", "gpt", "lstm", "--meshes", "fsdp,tp")


def test_training_is_that_of_one_device():
    """Three steps with dropout: losses, weights, keys; one program; every sharding as it was; all arrays donated."""
    run = scaled.in_child(*SOME, "--steps", "3", "--quick")
    assert run.returncode == 0, run.stdout + run.stderr[-3000:]


def test_on_eight_devices():
    """The tests of ``eight_devices/``, in a process that has them."""
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-n",
        "0",
        "-p",
        "no:cacheprovider",
        "tests/parallel/eight_devices",
    ]
    environment = {**scaled.environment(), "JAXNN_TEST_DEVICES": "8"}
    run = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600, cwd=scaled.ROOT)
    assert run.returncode == 0, run.stdout[-8000:] + run.stderr[-2000:]

"""What `save` leaves on the disk: the old file or the new one, whatever happens, with its links and permissions."""

import argparse
import os
import pathlib
import signal
import stat
import subprocess
import sys
import time

import chex
import numpy as np
import pytest

import jaxnn as nn
from tests.io import child

ENDINGS = (".pt", ".safetensors")


@pytest.mark.parametrize("ending", ENDINGS)
def test_a_symbolic_link_stays(ending, tmp_path):
    (tmp_path / "store").mkdir()
    link = tmp_path / f"last{ending}"
    link.symlink_to(f"store/run{ending}")
    for value in (1.0, 2.0):  # the link leads nowhere yet, then to a file
        nn.save({"a": np.full(3, value)}, link)
        assert link.is_symlink() and not (tmp_path / "store" / f"run{ending}").is_symlink()
        assert nn.load(tmp_path / "store" / f"run{ending}")["a"].tolist() == [value] * 3
    assert sorted(file.name for file in (tmp_path / "store").iterdir()) == [f"run{ending}"]
    loop = tmp_path / f"loop{ending}"
    loop.symlink_to(loop.name)
    with pytest.raises(OSError, match="symbolic links"):
        nn.save({"a": np.ones(1)}, loop)


@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize("mode", [0o600, 0o640, 0o664])
def test_permissions_stay(mode, ending, tmp_path):
    path = tmp_path / f"x{ending}"
    nn.save({"a": np.ones(1)}, path)
    mask = os.umask(0)
    os.umask(mask)
    assert stat.S_IMODE(path.stat().st_mode) == 0o666 & ~mask
    path.chmod(mode)
    nn.save({"a": np.zeros(1)}, path)
    assert stat.S_IMODE(path.stat().st_mode) == mode


@pytest.mark.parametrize("ending", ENDINGS)
def test_a_full_disk_is_an_oserror(ending, tmp_path):
    """By a limit on the size of files, which the system reports in the same place."""
    path = tmp_path / f"x{ending}"
    nn.save({"a": np.ones(3)}, path)
    code = """
    import resource
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 16, 1 << 16))
    try:
        nn.save({"a": np.ones(1 << 20)}, sys.argv[1])
    except OSError as error:
        print(type(error).__name__, error.errno)
    """
    assert child.run(code, path).stdout.split() == ["OSError", "27"]
    assert nn.load(path)["a"].tolist() == [1, 1, 1]
    assert [file.name for file in tmp_path.iterdir()] == [path.name]


WRITER = """
import itertools
path, size = sys.argv[1], int(sys.argv[2])
print("ready", flush=True)
for value in itertools.count():
    nn.save({"a": np.full(size, float(value)), "b": np.full(size, float(value))}, path)
"""


def _start(path, size=200_000):
    code = "import sys, numpy as np, jaxnn as nn\n" + WRITER
    process = subprocess.Popen([sys.executable, "-c", code, str(path), str(size)], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "ready\n"
    return process


def _kill(process):
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()


def _whole(path):
    read = nn.load(path, verify=path.suffix == ".pt")
    assert len(np.unique(np.concatenate([read["a"], read["b"]]))) == 1


@pytest.mark.parametrize("ending", ENDINGS)
def test_a_killed_writer_leaves_the_old_file_or_the_new_one(ending, tmp_path):
    path = tmp_path / f"x{ending}"
    nn.save({"a": np.zeros(3), "b": np.zeros(3)}, path)
    left = 0
    for attempt in range(6):
        process = _start(path)
        time.sleep(0.05 + 0.037 * attempt)
        _kill(process)
        _whole(path)
        left = max(left, len(list(tmp_path.iterdir())) - 1)
        assert left <= 1, "the next writer removes what a killed one left"
    nn.save({"a": np.zeros(3), "b": np.zeros(3)}, path)
    assert [file.name for file in tmp_path.iterdir()] == [path.name]


def test_what_a_killed_writer_left_is_removed_and_what_a_living_one_holds_is_not(tmp_path):
    from jaxnn.io import _atomic

    path = tmp_path / "x.pt"
    code = """
    import os
    from pathlib import Path
    from jaxnn.io import _atomic
    _atomic.write_atomically(Path(sys.argv[1]), lambda file: os.kill(os.getpid(), 9))
    """
    child.run(code, path, check=False)
    assert len(list(tmp_path.iterdir())) == 1

    def write(file):
        nn.save({"a": np.ones(1)}, path)  # a second writer while the first is at work
        assert len(list(tmp_path.iterdir())) == 2
        file.write(b"the first")

    _atomic.write_atomically(path, write)
    assert [file.name for file in tmp_path.iterdir()] == ["x.pt"] and path.read_bytes() == b"the first"


@pytest.mark.parametrize("ending", ENDINGS)
def test_two_writers_and_a_reader(ending, tmp_path):
    path = tmp_path / f"x{ending}"
    nn.save({"a": np.zeros(3), "b": np.zeros(3)}, path)
    writers = [_start(path, size) for size in (50_000, 80_000)]
    try:
        end = time.monotonic() + 3
        while time.monotonic() < end:
            _whole(path)
        assert all(writer.poll() is None for writer in writers)
    finally:
        for writer in writers:
            _kill(writer)
    _whole(path)
    nn.save({"a": np.zeros(3), "b": np.zeros(3)}, path)
    assert [file.name for file in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize("length", ["shorter", "same"])
def test_a_file_that_is_written_in_place(length, ending, tmp_path):
    """A private copy stays as it was; a map says that it is not what was loaded, instead of ending the process."""
    path, other = tmp_path / f"x{ending}", tmp_path / f"y{ending}"
    nn.save({"weight": np.ones((300, 300), np.float32)}, path)
    nn.save({"weight": np.zeros((300, 300) if length == "same" else (1, 1), np.float32)}, other)
    code = """
    import os
    copied, mapped = nn.load(sys.argv[1]), nn.load(sys.argv[1], mmap=True)
    earlier = nn.Linear(300, 300, bias=False)
    earlier.load_state_dict(mapped)  # copies
    content = open(sys.argv[2], "rb").read()
    with open(sys.argv[1], "r+b") as file:
        file.write(content)
        file.truncate()
    assert (copied["weight"] == 1).all()
    assert (np.asarray(earlier.weight) == 1).all()
    model = nn.Linear(300, 300, bias=False)
    model.load_state_dict(copied)
    try:
        model.load_state_dict(mapped)
    except nn.io.CheckpointError as error:
        assert "written to in place" in str(error)
        assert (np.asarray(model.weight) == 1).all()
    else:
        raise AssertionError("not noticed")
    """
    time.sleep(0.02)  # the clock of the file system
    child.run(code, path, other)


def test_shared_and_circular_objects_are_saved_once_or_refused(tmp_path):
    shared: list = [np.ones(2)]
    for _ in range(60):
        shared = [shared, shared]
    nn.save(shared, tmp_path / "x.pt")
    assert (tmp_path / "x.pt").stat().st_size < 10_000
    read = nn.load(tmp_path / "x.pt")
    assert read[0] is read[1]
    circle: list = []
    circle += [circle, circle]
    with pytest.raises(ValueError, match="does it hold itself"):
        nn.save(circle, tmp_path / "x.pt")


def test_memory_of_a_load(tmp_path):
    """A copy costs the file's size once; a map nothing."""
    nn.save({"a": np.ones(1 << 24)}, tmp_path / "x.pt")  # 128 MiB
    code = """
    import resource
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    read = nn.load(sys.argv[1], mmap=sys.argv[2] == "True")
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
    """
    copied, mapped = (int(child.run(code, tmp_path / "x.pt", mapped).stdout) for mapped in (False, True))
    assert mapped < 30_000 and copied < 160_000, (mapped, copied)


@pytest.mark.parametrize("ending", [".pt", ".safetensors"])
def test_parameters_and_their_data_are_saved_as_arrays(tmp_path, ending):
    layer = nn.Linear(2, 3)
    path = tmp_path / f"weights{ending}"
    nn.save({"box": layer.get_parameter("weight"), "data": layer.get_parameter("bias").data}, path)
    chex.assert_trees_all_equal(nn.load(path), {"box": np.asarray(layer.weight), "data": np.asarray(layer.bias)})


@pytest.mark.parametrize(
    "value, remedy",
    [
        (argparse.Namespace(lr=0.1), r"Namespace\(lr=0.1\) \(Namespace\); save vars\(it\), a dict of its attributes"),
        (pathlib.PurePosixPath("run"), r"; save str\(path\)"),
        (nn.Sequential(nn.Linear(2, 3)), r"got a Sequential; save its state_dict\(\)$"),
    ],
)
def test_what_scripts_save_and_only_code_could_read_has_a_remedy(value, remedy, tmp_path):
    with pytest.raises(TypeError, match=remedy):
        nn.save({"args": value}, tmp_path / "run.pt")


def test_torchs_arguments_and_endings_are_taken(tmp_path):
    nn.save({"epoch": 3}, tmp_path / "checkpoint.pth.tar")
    assert nn.load(tmp_path / "checkpoint.pth.tar", map_location="cuda", weights_only=True) == {"epoch": 3}
    with pytest.raises(TypeError, match="verify: expected a bool, got 'cuda'.*a device is not needed"):
        nn.load(tmp_path / "checkpoint.pth.tar", "cuda")


def test_a_missing_folder_is_named_and_not_the_file_that_is_made_in_it(tmp_path):
    for path in (tmp_path / "runs" / "x.pt", tmp_path / "runs" / "x.safetensors"):
        with pytest.raises(FileNotFoundError) as found:
            nn.save({"a": np.ones(2)}, path)
        assert str(found.value) == f"[Errno 2] no such folder (os.makedirs makes it): {str(tmp_path / 'runs')!r}"

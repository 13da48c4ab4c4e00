"""Several processes under torch.distributed's names: JAX's own distributed runtime starts them and watches over them."""

from __future__ import annotations

import base64
import datetime
import hashlib
import math
import os
import pickle
import platform
import sys
from pathlib import Path
from typing import Any

import jax
import jaxlib

from jaxnn import _compat
from jaxnn._version import __version__
from jaxnn.base.checks import as_int, fail
from jaxnn.base.dtypes import describe
from jaxnn.multihost import processes, spanning

_TORCHRUN = ("MASTER_ADDR", "MASTER_PORT", "RANK", "WORLD_SIZE")
_CPU_COLLECTIVES = {None: "gloo", "gloo": "gloo", "mpi": "mpi", "nccl": "gloo", "cpu:gloo,cuda:nccl": "gloo"}
_HEARTBEAT = 100  # seconds, JAX's default: a process that is silent for so long counts as ended
_DEFAULT_TIMEOUT = datetime.timedelta(minutes=5)


def init_process_group(
    backend: str | None = None,
    init_method: str | None = None,
    timeout: datetime.timedelta | float | None = None,
    world_size: int = -1,
    rank: int = -1,
    store: Any = None,
    group_name: str = "",
    pg_options: Any = None,
    device_id: Any = None,
) -> None:
    """Make this process one of a group that computes together. First of all: before anything is computed.

    Who the others are comes from the arguments; else from torchrun's variables (``RANK``, ``WORLD_SIZE``,
    ``MASTER_ADDR``, ``MASTER_PORT``); else from what ``jax.distributed.initialize`` finds by itself: ``JAX_COORDINATOR_ADDRESS``,
    SLURM, Open MPI, a TPU pod. Then the processes compare Python, JAX, jaxnn and the main program's file.

    torch: a rank is a process and its one device. Here a process has all devices of its host that it is not told to leave
    to others, so ``get_world_size()`` counts processes, and a mesh the devices of all of them. Under torchrun with several
    processes on a host each takes the GPU of its ``LOCAL_RANK``.

    Args:
        backend: None, ``"gloo"``, ``"nccl"`` or ``"mpi"``: how CPUs talk to each other; GPUs and TPUs have one way each.
        init_method: ``"env://"``, or ``"tcp://host:port"`` of process 0; then `world_size` and `rank` are needed.
        timeout: a timedelta or seconds, 5 minutes by default: how long processes wait for each other here, in `barrier`
            and in every check. A process that gives no sign of life for so long, or for 100 seconds where that is less,
            is taken for dead, and the others end.
        world_size: the number of processes.
        rank: the number of this one.
        store: must be None: JAX's coordination service is the store.
        group_name: accepted, and means nothing.
        pg_options: accepted, and means nothing.
        device_id: the number, or numbers, of the only local devices that this process uses.

    Raises:
        ValueError: the group is not described, or in part; another `backend` or `init_method`.
        RuntimeError: something was computed before; the group is there already; the others do not come in time, or run
            another program.

    Example:
        Started by ``torchrun --nproc-per-node 2 train.py``, or by ``srun python train.py``:

        >>> import jaxnn as nn
        >>> def main():
        ...     nn.parallel.init_process_group()
        ...     print(f"process {nn.parallel.get_rank()} of {nn.parallel.get_world_size()}")
        ...     nn.parallel.destroy_process_group()

    Follows ``torch.distributed.init_process_group``.
    """
    if store is not None:
        fail(ValueError, "init_process_group", "store", "None: JAX's coordination service is the store", store)
    if backend not in _CPU_COLLECTIVES:
        known = ", ".join(repr(name) for name in _CPU_COLLECTIVES if name)
        fail(ValueError, "init_process_group", "backend", f"None or one of {known}", repr(backend))
    seconds = _seconds(timeout)
    where = _described(init_method, world_size, rank)
    if device_id is not None:
        where["local_device_ids"] = _device_numbers(device_id)
    if is_initialized():
        raise RuntimeError("init_process_group: this process is in a group already; call destroy_process_group first")
    if _compat.devices_are_known():
        raise RuntimeError(
            "init_process_group: something was computed before: the devices of this process alone are in use. Call it at "
            "the beginning of the program, before any array is made and before jax.devices()"
        )
    if not os.environ.get("JAX_CPU_COLLECTIVES_IMPLEMENTATION"):
        jax.config.update("jax_cpu_collectives_implementation", _CPU_COLLECTIVES[backend])
    _initialize(where, seconds)
    processes.limit[0] = seconds
    processes.check_same("init_process_group", _program(), "Start the same program in the same environment everywhere")


def _seconds(timeout: Any) -> float:
    timeout = _DEFAULT_TIMEOUT if timeout is None else timeout
    seconds = timeout.total_seconds() if isinstance(timeout, datetime.timedelta) else timeout
    if isinstance(seconds, bool) or not isinstance(seconds, (int, float)) or not seconds > 0:
        fail(ValueError, "init_process_group", "timeout", "a timedelta or seconds > 0", repr(timeout))
    return float(seconds)


def _device_numbers(device_id: Any) -> list[int]:
    numbers = list(device_id) if isinstance(device_id, (list, tuple)) else [device_id]
    numbers = [getattr(number, "index", number) if not isinstance(number, int) else number for number in numbers]
    if not numbers or not all(type(number) is int and number >= 0 for number in numbers):
        fail(ValueError, "init_process_group", "device_id", "a number of a local device, or several", repr(device_id))
    return numbers


def _described(init_method: str | None, world_size: int, rank: int) -> dict[str, Any]:
    """What ``jax.distributed.initialize`` is told: nothing where it is to find out by itself."""
    if init_method is not None and not str(init_method).startswith(("env://", "tcp://")):
        fail(ValueError, "init_process_group", "init_method", "'env://' or 'tcp://host:port'", repr(init_method))
    if init_method is not None and init_method.startswith("tcp://"):
        address = init_method.removeprefix("tcp://").rstrip("/")
        if not address.rpartition(":")[2].isdecimal():
            fail(ValueError, "init_process_group", "init_method", "'tcp://host:port'", repr(init_method))
        if world_size < 1 or not 0 <= rank < world_size:
            got = f"world_size={world_size}, rank={rank}"
            fail(ValueError, "init_process_group", "init_method", "world_size and 0 <= rank < world_size with it", got)
        return {"coordinator_address": address, "num_processes": world_size, "process_id": rank}
    given = {
        "RANK": None if rank < 0 else str(rank),
        "WORLD_SIZE": None if world_size < 0 else str(world_size),
    }
    values = {name: given.get(name) or os.environ.get(name) for name in _TORCHRUN}
    if init_method is None and not (values["RANK"] or values["WORLD_SIZE"]):
        return {}  # MASTER_ADDR alone is set by other launchers too
    missing = [name for name, value in values.items() if not value]
    if missing:
        fail(
            ValueError,
            "init_process_group",
            "init_method",
            f"the variables {', '.join(_TORCHRUN)} of torchrun",
            f"no {', '.join(missing)}",
            "Start with torchrun, or pass init_method='tcp://host:port', world_size and rank",
        )
    return _from_torchrun({name: value or "" for name, value in values.items()})


def _from_torchrun(values: dict[str, str]) -> dict[str, Any]:
    wrong = [name for name in ("RANK", "WORLD_SIZE", "MASTER_PORT") if not values[name].isdecimal()]
    if wrong or int(values["RANK"]) >= int(values["WORLD_SIZE"]):
        got = ", ".join(f"{name}={values[name]!r}" for name in _TORCHRUN)
        fail(ValueError, "init_process_group", "init_method", "numbers with RANK < WORLD_SIZE", got)
    # torchrun's own store listens on MASTER_PORT; the next port is ours.
    taken = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
    where: dict[str, Any] = {
        "coordinator_address": f"{values['MASTER_ADDR']}:{int(values['MASTER_PORT']) + taken}",
        "num_processes": int(values["WORLD_SIZE"]),
        "process_id": int(values["RANK"]),
    }
    if os.environ.get("LOCAL_WORLD_SIZE", "1") != "1":
        where["local_device_ids"] = [int(os.environ.get("LOCAL_RANK", "0"))]
    return where


def _initialize(where: dict[str, Any], seconds: float) -> None:
    whole = math.ceil(seconds)
    waiting: dict[str, Any] = {
        "initialization_timeout": whole,
        "heartbeat_timeout_seconds": min(whole, _HEARTBEAT),
        "shutdown_timeout_seconds": whole,
    }
    try:
        if where:
            jax.distributed.initialize(**where, **waiting, cluster_detection_method="deactivate")
        else:
            jax.distributed.initialize(**waiting)
    except ValueError as error:
        if where or "should be defined" not in str(error) and "must be defined" not in str(error):
            raise
        raise ValueError(
            "init_process_group: init_method: expected to find the other processes, got no variables of torchrun "
            f"({', '.join(_TORCHRUN)}), no JAX_COORDINATOR_ADDRESS, no SLURM or Open MPI job and no TPU pod. Start with "
            "torchrun, srun or mpirun, or pass init_method='tcp://host:port', world_size and rank"
        ) from error


def _program() -> dict[str, str]:
    """What all processes must have in common."""
    main = getattr(sys.modules.get("__main__"), "__file__", None)
    try:
        text = Path(main).read_bytes() if main else b""
    except OSError:
        text = b""
    return {
        "Python": platform.python_version(),
        "jax": jax.__version__,
        "jaxlib": jaxlib.version.__version__,
        "jaxnn": __version__,
        "the main program's file": hashlib.blake2b(text, digest_size=6).hexdigest(),
    }


def is_available() -> bool:
    """True: JAX's distributed runtime is always there.

    Example:
        >>> import jaxnn as nn
        >>> nn.parallel.is_available()
        True

    Follows ``torch.distributed.is_available``.
    """
    return True


def is_initialized() -> bool:
    """Whether this process is one of a group, made here or by ``jax.distributed.initialize``.

    Example:
        >>> import jaxnn as nn
        >>> nn.parallel.is_initialized()
        False

    Follows ``torch.distributed.is_initialized``.
    """
    return _compat.coordination() is not None


def get_rank(group: Any = None) -> int:
    """The number of this process; 0 where there is no group.

    Example:
        >>> import jaxnn as nn
        >>> nn.parallel.get_rank(), nn.parallel.get_world_size()
        (0, 1)

    Follows ``torch.distributed.get_rank``.
    """
    _only_group("get_rank", group)
    return processes.index()


def get_world_size(group: Any = None) -> int:
    """The number of processes; 1 where there is no group. (``jax.device_count()`` is that of their devices.)

    Example:
        >>> import jaxnn as nn
        >>> nn.parallel.get_world_size()
        1

    Follows ``torch.distributed.get_world_size``.
    """
    _only_group("get_world_size", group)
    return processes.count()


def get_node_local_rank(fallback_rank: int | None = None) -> int:
    """The number of this process among those of its host: torchrun's ``LOCAL_RANK``, or SLURM's or Open MPI's variable.

    Args:
        fallback_rank: what to give where there is no such variable.

    Raises:
        RuntimeError: no such variable, and no `fallback_rank`.

    Example:
        >>> import jaxnn as nn
        >>> nn.parallel.get_node_local_rank(fallback_rank=0)
        0

    Follows ``torch.distributed.get_node_local_rank``.
    """
    for name in ("LOCAL_RANK", "SLURM_LOCALID", "OMPI_COMM_WORLD_LOCAL_RANK"):
        if name in os.environ:
            return int(os.environ[name])
    if fallback_rank is not None:
        return int(fallback_rank)
    raise RuntimeError(
        "get_node_local_rank: expected LOCAL_RANK among the environment's variables. Start with torchrun, or pass "
        "fallback_rank"
    )


def _only_group(function: str, group: Any) -> None:
    if group is not None:
        fail(
            ValueError,
            function,
            "group",
            "None: there is one group, of all processes",
            group,
            "Parts are axes of a mesh",
        )


def barrier(group: Any = None, async_op: bool = False, device_ids: Any = None) -> None:
    """Wait until all processes are here.

    Args:
        group: must be None.
        async_op: must be False.
        device_ids: accepted, and means nothing.

    Raises:
        RuntimeError: on all that are here, where one does not come within the group's timeout; names it.

    Example:
        >>> import jaxnn as nn
        >>> nn.parallel.barrier()  # alone, a process waits for nobody

    Follows ``torch.distributed.barrier``.
    """
    _only_group("barrier", group)
    if async_op:
        fail(ValueError, "barrier", "async_op", "False", async_op)
    processes.exchange("barrier")


def all_gather_object(object_list: list[Any], obj: Any, group: Any = None) -> None:
    """Fill `object_list` with the `obj` of every process, in their order. For small things: metrics, names, counts.

    Args:
        object_list: a list of as many places as there are processes.
        obj: what can be pickled.
        group: must be None.

    Raises:
        ValueError: a list of another length.
        RuntimeError: a process does not come within the group's timeout; names it.

    Example:
        >>> import jaxnn as nn
        >>> counts = [None] * nn.parallel.get_world_size()
        >>> nn.parallel.all_gather_object(counts, {"seen": 128})
        >>> counts
        [{'seen': 128}]

    Follows ``torch.distributed.all_gather_object``.
    """
    _only_group("all_gather_object", group)
    _check_list("all_gather_object", object_list)
    if len(object_list) != processes.count():
        got = f"a list of {len(object_list)}"
        fail(
            ValueError, "all_gather_object", "object_list", f"a list of {processes.count()}, one for each process", got
        )
    texts = processes.exchange("all_gather_object", base64.b64encode(pickle.dumps(obj)).decode())
    object_list[:] = [pickle.loads(base64.b64decode(text)) for text in texts]


def broadcast_object_list(object_list: list[Any], src: int = 0, group: Any = None, device: Any = None) -> None:
    """Put what process `src` has in `object_list` into that of every process. For small things.

    Args:
        object_list: a list of the same length everywhere, of what can be pickled.
        src: the number of the process that gives.
        group: must be None.
        device: accepted, and means nothing.

    Raises:
        ValueError: no such process.
        RuntimeError: a process does not come within the group's timeout; names it.

    Example:
        >>> import jaxnn as nn
        >>> names = ["run 7"]
        >>> nn.parallel.broadcast_object_list(names)
        >>> names
        ['run 7']

    Follows ``torch.distributed.broadcast_object_list``.
    """
    _only_group("broadcast_object_list", group)
    _check_list("broadcast_object_list", object_list)
    if not 0 <= as_int("broadcast_object_list", "src", src) < processes.count():
        fail(ValueError, "broadcast_object_list", "src", f"a process from 0 to {processes.count() - 1}", repr(src))
    own = base64.b64encode(pickle.dumps(list(object_list))).decode() if src == processes.index() else ""
    object_list[:] = pickle.loads(base64.b64decode(processes.exchange("broadcast_object_list", own)[src]))


def _check_list(where: str, value: Any) -> None:
    if not isinstance(value, list):
        fail(TypeError, where, "object_list", "a list, which is filled", describe(value))


def full_tensor(array: Any) -> jax.Array:
    """The whole of an array as one of this process alone. Where parts lie with other processes, all must call it.

    Args:
        array: an array, a Parameter or a Buffer.

    Returns:
        An array on this process's default device.

    Example:
        >>> import jaxnn as nn
        >>> nn.parallel.full_tensor(nn.Linear(2, 3).weight).shape
        (3, 2)

    Follows ``torch.distributed.tensor.DTensor.full_tensor``.
    """
    array = getattr(array, "value", array)
    if not isinstance(array, jax.Array):
        fail(TypeError, "full_tensor", "array", "a jax array, a Parameter or a Buffer", array)
    return jax.device_put(spanning.whole(array), jax.local_devices()[0]) if processes.spans(array) else array


def destroy_process_group(group: Any = None) -> None:
    """Leave the group, at the end of the program. Waits for the others, at most for the group's timeout.

    Example:
        >>> import jaxnn as nn
        >>> nn.parallel.destroy_process_group()  # alone, a process leaves nothing

    Follows ``torch.distributed.destroy_process_group``.
    """
    _only_group("destroy_process_group", group)
    jax.distributed.shutdown()

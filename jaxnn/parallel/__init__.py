"""Several devices: torch.nn.parallel's names over JAX's shardings."""

from importlib import import_module as _import_module
from typing import TYPE_CHECKING as _TYPE_CHECKING
from typing import Any as _Any

from jaxnn.base.names import public_names as _public_names
from jaxnn.parallel.attention import split_attention as split_attention
from jaxnn.parallel.batch import shard_batch as shard_batch
from jaxnn.parallel.data_parallel import DataParallel as DataParallel
from jaxnn.parallel.data_parallel import data_parallel as data_parallel
from jaxnn.parallel.device_mesh import DeviceMesh as DeviceMesh
from jaxnn.parallel.device_mesh import init_device_mesh as init_device_mesh
from jaxnn.parallel.distribute import distribute_module as distribute_module
from jaxnn.parallel.distribute import distribute_tensor as distribute_tensor
from jaxnn.parallel.distribute import placement_table as placement_table
from jaxnn.parallel.distributed import DistributedDataParallel as DistributedDataParallel
from jaxnn.parallel.experts import ExpertParallel as ExpertParallel
from jaxnn.parallel.fully_shard import MixedPrecisionPolicy as MixedPrecisionPolicy
from jaxnn.parallel.fully_shard import OffloadPolicy as OffloadPolicy
from jaxnn.parallel.fully_shard import fully_shard as fully_shard
from jaxnn.parallel.headwise import HeadwiseParallel as HeadwiseParallel
from jaxnn.parallel.headwise import transformer_plan as transformer_plan
from jaxnn.parallel.init_sharded import init_sharded as init_sharded
from jaxnn.parallel.parallelize import loss_parallel as loss_parallel
from jaxnn.parallel.parallelize import parallelize_module as parallelize_module
from jaxnn.parallel.pipelining import PipelineParallel as PipelineParallel
from jaxnn.parallel.placement_types import Partial as Partial
from jaxnn.parallel.placement_types import Placement as Placement
from jaxnn.parallel.placement_types import Replicate as Replicate
from jaxnn.parallel.placement_types import Shard as Shard
from jaxnn.parallel.process_group import all_gather_object as all_gather_object
from jaxnn.parallel.process_group import barrier as barrier
from jaxnn.parallel.process_group import broadcast_object_list as broadcast_object_list
from jaxnn.parallel.process_group import destroy_process_group as destroy_process_group
from jaxnn.parallel.process_group import full_tensor as full_tensor
from jaxnn.parallel.process_group import get_node_local_rank as get_node_local_rank
from jaxnn.parallel.process_group import get_rank as get_rank
from jaxnn.parallel.process_group import get_world_size as get_world_size
from jaxnn.parallel.process_group import init_process_group as init_process_group
from jaxnn.parallel.process_group import is_available as is_available
from jaxnn.parallel.process_group import is_initialized as is_initialized
from jaxnn.parallel.style import ColwiseParallel as ColwiseParallel
from jaxnn.parallel.style import ParallelStyle as ParallelStyle
from jaxnn.parallel.style import PrepareModuleInput as PrepareModuleInput
from jaxnn.parallel.style import PrepareModuleInputOutput as PrepareModuleInputOutput
from jaxnn.parallel.style import PrepareModuleOutput as PrepareModuleOutput
from jaxnn.parallel.style import RowwiseParallel as RowwiseParallel
from jaxnn.parallel.style import SequenceParallel as SequenceParallel

if _TYPE_CHECKING:
    from jaxnn.parallel import checkpoint as checkpoint
else:

    def __getattr__(name: str) -> _Any:
        if name != "checkpoint":  # which loads nn.optim and nn.io
            raise AttributeError(f"module 'jaxnn.parallel' has no attribute {name!r}")
        return _import_module("jaxnn.parallel.checkpoint")


def __dir__() -> list[str]:
    return _public_names(globals(), "checkpoint")

"""torch.nn for JAX: the same names, signatures, state_dict keys and numbers, on modules that are JAX pytrees.

``import jaxnn as nn, jaxnn.functional as F`` stands where a PyTorch file has ``from torch import nn`` and
``import torch.nn.functional as F``.
"""

from __future__ import annotations

from importlib import import_module as _import_module
from typing import TYPE_CHECKING, Any

from jaxnn import functional as functional
from jaxnn import grad as grad
from jaxnn import init as init
from jaxnn import parallel as parallel
from jaxnn import utils as utils
from jaxnn._version import __version__ as __version__
from jaxnn.base import explaining as _explaining
from jaxnn.base.autocast import autocast as autocast
from jaxnn.base.autocast import is_autocast_enabled as is_autocast_enabled
from jaxnn.base.modes import enable_grad as enable_grad
from jaxnn.base.modes import get_float32_matmul_precision as get_float32_matmul_precision
from jaxnn.base.modes import inference_mode as inference_mode
from jaxnn.base.modes import is_grad_enabled as is_grad_enabled
from jaxnn.base.modes import is_inference_mode_enabled as is_inference_mode_enabled
from jaxnn.base.modes import no_grad as no_grad
from jaxnn.base.modes import set_float32_matmul_precision as set_float32_matmul_precision
from jaxnn.base.modes import set_grad_enabled as set_grad_enabled
from jaxnn.base.names import public_names as _public_names
from jaxnn.boxes import arithmetic as _arithmetic
from jaxnn.boxes.homes import DeletedArrayError as DeletedArrayError
from jaxnn.boxes.homes import TraceLeakError as TraceLeakError
from jaxnn.boxes.parameter import Buffer as Buffer
from jaxnn.boxes.parameter import Parameter as Parameter
from jaxnn.boxes.uninitialized import UninitializedBuffer as UninitializedBuffer
from jaxnn.boxes.uninitialized import UninitializedParameter as UninitializedParameter
from jaxnn.core.device import device as device
from jaxnn.core.module import Module as Module
from jaxnn.core.random import Generator as Generator
from jaxnn.core.random import default_generator as default_generator
from jaxnn.core.random import fork_rng as fork_rng
from jaxnn.core.random import get_rng_state as get_rng_state
from jaxnn.core.random import initial_seed as initial_seed
from jaxnn.core.random import manual_seed as manual_seed
from jaxnn.core.random import next_key as next_key
from jaxnn.core.random import rng as rng
from jaxnn.core.random import set_rng_state as set_rng_state
from jaxnn.functional.linear_cross_entropy import LinearCrossEntropyOptions as LinearCrossEntropyOptions
from jaxnn.lowering.compiling import compiler_options as compiler_options
from jaxnn.modules.activation import CELU as CELU
from jaxnn.modules.activation import ELU as ELU
from jaxnn.modules.activation import GELU as GELU
from jaxnn.modules.activation import GLU as GLU
from jaxnn.modules.activation import SELU as SELU
from jaxnn.modules.activation import Hardshrink as Hardshrink
from jaxnn.modules.activation import Hardsigmoid as Hardsigmoid
from jaxnn.modules.activation import Hardswish as Hardswish
from jaxnn.modules.activation import Hardtanh as Hardtanh
from jaxnn.modules.activation import LeakyReLU as LeakyReLU
from jaxnn.modules.activation import LogSigmoid as LogSigmoid
from jaxnn.modules.activation import LogSoftmax as LogSoftmax
from jaxnn.modules.activation import Mish as Mish
from jaxnn.modules.activation import PReLU as PReLU
from jaxnn.modules.activation import ReLU as ReLU
from jaxnn.modules.activation import ReLU6 as ReLU6
from jaxnn.modules.activation import RReLU as RReLU
from jaxnn.modules.activation import Sigmoid as Sigmoid
from jaxnn.modules.activation import SiLU as SiLU
from jaxnn.modules.activation import Softmax as Softmax
from jaxnn.modules.activation import Softmax2d as Softmax2d
from jaxnn.modules.activation import Softmin as Softmin
from jaxnn.modules.activation import Softplus as Softplus
from jaxnn.modules.activation import Softshrink as Softshrink
from jaxnn.modules.activation import Softsign as Softsign
from jaxnn.modules.activation import Tanh as Tanh
from jaxnn.modules.activation import Tanhshrink as Tanhshrink
from jaxnn.modules.activation import Threshold as Threshold
from jaxnn.modules.adaptive import AdaptiveLogSoftmaxWithLoss as AdaptiveLogSoftmaxWithLoss
from jaxnn.modules.attention import MultiheadAttention as MultiheadAttention
from jaxnn.modules.batchnorm import BatchNorm1d as BatchNorm1d
from jaxnn.modules.batchnorm import BatchNorm2d as BatchNorm2d
from jaxnn.modules.batchnorm import BatchNorm3d as BatchNorm3d
from jaxnn.modules.batchnorm import LazyBatchNorm1d as LazyBatchNorm1d
from jaxnn.modules.batchnorm import LazyBatchNorm2d as LazyBatchNorm2d
from jaxnn.modules.batchnorm import LazyBatchNorm3d as LazyBatchNorm3d
from jaxnn.modules.batchnorm import SyncBatchNorm as SyncBatchNorm
from jaxnn.modules.channelshuffle import ChannelShuffle as ChannelShuffle
from jaxnn.modules.container import Container as Container
from jaxnn.modules.container import ModuleDict as ModuleDict
from jaxnn.modules.container import ModuleList as ModuleList
from jaxnn.modules.container import ParameterDict as ParameterDict
from jaxnn.modules.container import ParameterList as ParameterList
from jaxnn.modules.container import Sequential as Sequential
from jaxnn.modules.conv import Conv1d as Conv1d
from jaxnn.modules.conv import Conv2d as Conv2d
from jaxnn.modules.conv import Conv3d as Conv3d
from jaxnn.modules.conv import ConvTranspose1d as ConvTranspose1d
from jaxnn.modules.conv import ConvTranspose2d as ConvTranspose2d
from jaxnn.modules.conv import ConvTranspose3d as ConvTranspose3d
from jaxnn.modules.conv import LazyConv1d as LazyConv1d
from jaxnn.modules.conv import LazyConv2d as LazyConv2d
from jaxnn.modules.conv import LazyConv3d as LazyConv3d
from jaxnn.modules.conv import LazyConvTranspose1d as LazyConvTranspose1d
from jaxnn.modules.conv import LazyConvTranspose2d as LazyConvTranspose2d
from jaxnn.modules.conv import LazyConvTranspose3d as LazyConvTranspose3d
from jaxnn.modules.distance import CosineSimilarity as CosineSimilarity
from jaxnn.modules.distance import PairwiseDistance as PairwiseDistance
from jaxnn.modules.dropout import AlphaDropout as AlphaDropout
from jaxnn.modules.dropout import Dropout as Dropout
from jaxnn.modules.dropout import Dropout1d as Dropout1d
from jaxnn.modules.dropout import Dropout2d as Dropout2d
from jaxnn.modules.dropout import Dropout3d as Dropout3d
from jaxnn.modules.dropout import FeatureAlphaDropout as FeatureAlphaDropout
from jaxnn.modules.flatten import Flatten as Flatten
from jaxnn.modules.flatten import Unflatten as Unflatten
from jaxnn.modules.fold import Fold as Fold
from jaxnn.modules.fold import Unfold as Unfold
from jaxnn.modules.instancenorm import InstanceNorm1d as InstanceNorm1d
from jaxnn.modules.instancenorm import InstanceNorm2d as InstanceNorm2d
from jaxnn.modules.instancenorm import InstanceNorm3d as InstanceNorm3d
from jaxnn.modules.instancenorm import LazyInstanceNorm1d as LazyInstanceNorm1d
from jaxnn.modules.instancenorm import LazyInstanceNorm2d as LazyInstanceNorm2d
from jaxnn.modules.instancenorm import LazyInstanceNorm3d as LazyInstanceNorm3d
from jaxnn.modules.linear import Bilinear as Bilinear
from jaxnn.modules.linear import Identity as Identity
from jaxnn.modules.linear import LazyLinear as LazyLinear
from jaxnn.modules.linear import Linear as Linear
from jaxnn.modules.loss import BCELoss as BCELoss
from jaxnn.modules.loss import BCEWithLogitsLoss as BCEWithLogitsLoss
from jaxnn.modules.loss import CosineEmbeddingLoss as CosineEmbeddingLoss
from jaxnn.modules.loss import CrossEntropyLoss as CrossEntropyLoss
from jaxnn.modules.loss import CTCLoss as CTCLoss
from jaxnn.modules.loss import GaussianNLLLoss as GaussianNLLLoss
from jaxnn.modules.loss import HingeEmbeddingLoss as HingeEmbeddingLoss
from jaxnn.modules.loss import HuberLoss as HuberLoss
from jaxnn.modules.loss import KLDivLoss as KLDivLoss
from jaxnn.modules.loss import L1Loss as L1Loss
from jaxnn.modules.loss import LinearCrossEntropyLoss as LinearCrossEntropyLoss
from jaxnn.modules.loss import MarginRankingLoss as MarginRankingLoss
from jaxnn.modules.loss import MSELoss as MSELoss
from jaxnn.modules.loss import MultiLabelMarginLoss as MultiLabelMarginLoss
from jaxnn.modules.loss import MultiLabelSoftMarginLoss as MultiLabelSoftMarginLoss
from jaxnn.modules.loss import MultiMarginLoss as MultiMarginLoss
from jaxnn.modules.loss import NLLLoss as NLLLoss
from jaxnn.modules.loss import NLLLoss2d as NLLLoss2d
from jaxnn.modules.loss import PoissonNLLLoss as PoissonNLLLoss
from jaxnn.modules.loss import SmoothL1Loss as SmoothL1Loss
from jaxnn.modules.loss import SoftMarginLoss as SoftMarginLoss
from jaxnn.modules.loss import TripletMarginLoss as TripletMarginLoss
from jaxnn.modules.loss import TripletMarginWithDistanceLoss as TripletMarginWithDistanceLoss
from jaxnn.modules.normalization import CrossMapLRN2d as CrossMapLRN2d
from jaxnn.modules.normalization import GroupNorm as GroupNorm
from jaxnn.modules.normalization import LayerNorm as LayerNorm
from jaxnn.modules.normalization import LocalResponseNorm as LocalResponseNorm
from jaxnn.modules.normalization import RMSNorm as RMSNorm
from jaxnn.modules.padding import CircularPad1d as CircularPad1d
from jaxnn.modules.padding import CircularPad2d as CircularPad2d
from jaxnn.modules.padding import CircularPad3d as CircularPad3d
from jaxnn.modules.padding import ConstantPad1d as ConstantPad1d
from jaxnn.modules.padding import ConstantPad2d as ConstantPad2d
from jaxnn.modules.padding import ConstantPad3d as ConstantPad3d
from jaxnn.modules.padding import ReflectionPad1d as ReflectionPad1d
from jaxnn.modules.padding import ReflectionPad2d as ReflectionPad2d
from jaxnn.modules.padding import ReflectionPad3d as ReflectionPad3d
from jaxnn.modules.padding import ReplicationPad1d as ReplicationPad1d
from jaxnn.modules.padding import ReplicationPad2d as ReplicationPad2d
from jaxnn.modules.padding import ReplicationPad3d as ReplicationPad3d
from jaxnn.modules.padding import ZeroPad1d as ZeroPad1d
from jaxnn.modules.padding import ZeroPad2d as ZeroPad2d
from jaxnn.modules.padding import ZeroPad3d as ZeroPad3d
from jaxnn.modules.pixelshuffle import PixelShuffle as PixelShuffle
from jaxnn.modules.pixelshuffle import PixelUnshuffle as PixelUnshuffle
from jaxnn.modules.pooling import AdaptiveAvgPool1d as AdaptiveAvgPool1d
from jaxnn.modules.pooling import AdaptiveAvgPool2d as AdaptiveAvgPool2d
from jaxnn.modules.pooling import AdaptiveAvgPool3d as AdaptiveAvgPool3d
from jaxnn.modules.pooling import AdaptiveMaxPool1d as AdaptiveMaxPool1d
from jaxnn.modules.pooling import AdaptiveMaxPool2d as AdaptiveMaxPool2d
from jaxnn.modules.pooling import AdaptiveMaxPool3d as AdaptiveMaxPool3d
from jaxnn.modules.pooling import AvgPool1d as AvgPool1d
from jaxnn.modules.pooling import AvgPool2d as AvgPool2d
from jaxnn.modules.pooling import AvgPool3d as AvgPool3d
from jaxnn.modules.pooling import FractionalMaxPool2d as FractionalMaxPool2d
from jaxnn.modules.pooling import FractionalMaxPool3d as FractionalMaxPool3d
from jaxnn.modules.pooling import LPPool1d as LPPool1d
from jaxnn.modules.pooling import LPPool2d as LPPool2d
from jaxnn.modules.pooling import LPPool3d as LPPool3d
from jaxnn.modules.pooling import MaxPool1d as MaxPool1d
from jaxnn.modules.pooling import MaxPool2d as MaxPool2d
from jaxnn.modules.pooling import MaxPool3d as MaxPool3d
from jaxnn.modules.pooling import MaxUnpool1d as MaxUnpool1d
from jaxnn.modules.pooling import MaxUnpool2d as MaxUnpool2d
from jaxnn.modules.pooling import MaxUnpool3d as MaxUnpool3d
from jaxnn.modules.rnn import GRU as GRU
from jaxnn.modules.rnn import LSTM as LSTM
from jaxnn.modules.rnn import RNN as RNN
from jaxnn.modules.rnn import GRUCell as GRUCell
from jaxnn.modules.rnn import LSTMCell as LSTMCell
from jaxnn.modules.rnn import RNNBase as RNNBase
from jaxnn.modules.rnn import RNNCell as RNNCell
from jaxnn.modules.rnn import RNNCellBase as RNNCellBase
from jaxnn.modules.sparse import Embedding as Embedding
from jaxnn.modules.sparse import EmbeddingBag as EmbeddingBag
from jaxnn.modules.transformer import Transformer as Transformer
from jaxnn.modules.transformer import TransformerDecoder as TransformerDecoder
from jaxnn.modules.transformer import TransformerEncoder as TransformerEncoder
from jaxnn.modules.transformer_layer import TransformerDecoderLayer as TransformerDecoderLayer
from jaxnn.modules.transformer_layer import TransformerEncoderLayer as TransformerEncoderLayer
from jaxnn.modules.upsampling import Upsample as Upsample
from jaxnn.modules.upsampling import UpsamplingBilinear2d as UpsamplingBilinear2d
from jaxnn.modules.upsampling import UpsamplingNearest2d as UpsamplingNearest2d
from jaxnn.parallel.data_parallel import DataParallel as DataParallel
from jaxnn.parallel.init_sharded import init_sharded as init_sharded
from jaxnn.transforms.checkpoint import checkpoint as checkpoint
from jaxnn.transforms.functional_call import functional_call as functional_call
from jaxnn.transforms.gradients import value_and_grad as value_and_grad
from jaxnn.transforms.jit import jit as jit
from jaxnn.transforms.parameter_mask import parameter_mask as parameter_mask
from jaxnn.transforms.scan import scan as scan
from jaxnn.transforms.scan_layers import scan_layers as scan_layers
from jaxnn.transforms.shard_map import shard_map as shard_map
from jaxnn.transforms.stack_module_state import stack_module_state as stack_module_state
from jaxnn.transforms.vmap import vmap as vmap

if TYPE_CHECKING:
    from jaxnn import amp as amp
    from jaxnn import attention as attention
    from jaxnn import export as export
    from jaxnn import hub as hub
    from jaxnn import modules as modules
    from jaxnn import optim as optim
    from jaxnn import targets as targets
    from jaxnn import tensor as tensor
    from jaxnn import testing as testing
    from jaxnn.io import load as load
    from jaxnn.io import save as save
    from jaxnn.porting import from_torch as from_torch
    from jaxnn.porting import from_torch_state_dict as from_torch_state_dict
    from jaxnn.porting import to_torch_state_dict as to_torch_state_dict
    from jaxnn.tensor.drawing import bernoulli as bernoulli
    from jaxnn.tensor.drawing import multinomial as multinomial
    from jaxnn.tensor.drawing import normal as normal
    from jaxnn.tensor.drawing import rand as rand
    from jaxnn.tensor.drawing import rand_like as rand_like
    from jaxnn.tensor.drawing import randint as randint
    from jaxnn.tensor.drawing import randn as randn
    from jaxnn.tensor.drawing import randn_like as randn_like
    from jaxnn.tensor.drawing import randperm as randperm
    from jaxnn.transforms.gradients import grad as grad  # jaxnn/grad.py is a module that is called as this function
    from jaxnn.utils.summary import summary as summary

# Loaded when first used: optax and checkpoint readers would triple the time of `import jaxnn`.
_LAZY = {
    "amp": "jaxnn.amp",
    "optim": "jaxnn.optim",
    "tensor": "jaxnn.tensor",
    "hub": "jaxnn.hub",
    "load": "jaxnn.io:load",
    "save": "jaxnn.io:save",
    "summary": "jaxnn.utils.summary:summary",
    **{
        name: f"jaxnn.tensor.drawing:{name}"
        for name in "bernoulli multinomial normal rand rand_like randint randn randn_like randperm".split()
    },
    "attention": "jaxnn.attention",
    "targets": "jaxnn.targets",
    "export": "jaxnn.export",
    "testing": "jaxnn.testing",
    "from_torch": "jaxnn.porting:from_torch",
    "from_torch_state_dict": "jaxnn.porting:from_torch_state_dict",
    "to_torch_state_dict": "jaxnn.porting:to_torch_state_dict",
}


if not TYPE_CHECKING:  # a checker knows the names above, and reports any other

    def __getattr__(name: str) -> Any:
        if name not in _LAZY:
            remedy = _explaining.of_attribute("nn", name)
            raise AttributeError(f"module 'jaxnn' has no attribute {name!r}" + (f". {remedy}" if remedy else ""))
        module, _, attribute = _LAZY[name].partition(":")
        value = _import_module(module)
        value = getattr(value, attribute) if attribute else value
        globals()[name] = value
        return value


def __dir__() -> list[str]:
    return _public_names(globals(), "functional", "grad", "init", "modules", "parallel", "utils", *_LAZY)


_explaining.explain_uncaught()
_arithmetic.of_tensors = lambda: _import_module("jaxnn.tensor")

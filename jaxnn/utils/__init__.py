from jaxnn.base.names import public_names as _public_names
from jaxnn.utils import data as data
from jaxnn.utils import parametrizations as parametrizations
from jaxnn.utils import parametrize as parametrize
from jaxnn.utils import prune as prune
from jaxnn.utils import rnn as rnn
from jaxnn.utils import stateless as stateless
from jaxnn.utils.accumulation import accumulate as accumulate
from jaxnn.utils.clip_grad import clip_grad_norm as clip_grad_norm
from jaxnn.utils.clip_grad import clip_grad_norm_ as clip_grad_norm_
from jaxnn.utils.clip_grad import clip_grad_value_ as clip_grad_value_
from jaxnn.utils.clip_grad import clip_grads_with_norm_ as clip_grads_with_norm_
from jaxnn.utils.clip_grad import get_total_norm as get_total_norm
from jaxnn.utils.convert_parameters import parameters_to_vector as parameters_to_vector
from jaxnn.utils.convert_parameters import vector_to_parameters as vector_to_parameters
from jaxnn.utils.fusion import fuse_conv_bn_eval as fuse_conv_bn_eval
from jaxnn.utils.fusion import fuse_conv_bn_weights as fuse_conv_bn_weights
from jaxnn.utils.fusion import fuse_linear_bn_eval as fuse_linear_bn_eval
from jaxnn.utils.fusion import fuse_linear_bn_weights as fuse_linear_bn_weights
from jaxnn.utils.init import skip_init as skip_init
from jaxnn.utils.memory_format import convert_conv2d_weight_memory_format as convert_conv2d_weight_memory_format
from jaxnn.utils.memory_format import convert_conv3d_weight_memory_format as convert_conv3d_weight_memory_format
from jaxnn.utils.spectral_norm import remove_spectral_norm as remove_spectral_norm
from jaxnn.utils.spectral_norm import spectral_norm as spectral_norm
from jaxnn.utils.weight_norm import remove_weight_norm as remove_weight_norm
from jaxnn.utils.weight_norm import weight_norm as weight_norm


def __dir__() -> list[str]:
    return _public_names(globals(), "data", "parametrizations", "parametrize", "prune", "rnn", "stateless")

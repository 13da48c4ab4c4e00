"""torch.nn.functional for JAX: pure functions of arrays, one file per family."""

# activation
from jaxnn.base.names import public_names as _public_names
from jaxnn.functional.activation import celu as celu
from jaxnn.functional.activation import celu_ as celu_
from jaxnn.functional.activation import elu as elu
from jaxnn.functional.activation import elu_ as elu_
from jaxnn.functional.activation import gelu as gelu
from jaxnn.functional.activation import glu as glu
from jaxnn.functional.activation import gumbel_softmax as gumbel_softmax
from jaxnn.functional.activation import hardshrink as hardshrink
from jaxnn.functional.activation import hardsigmoid as hardsigmoid
from jaxnn.functional.activation import hardswish as hardswish
from jaxnn.functional.activation import hardtanh as hardtanh
from jaxnn.functional.activation import hardtanh_ as hardtanh_
from jaxnn.functional.activation import leaky_relu as leaky_relu
from jaxnn.functional.activation import leaky_relu_ as leaky_relu_
from jaxnn.functional.activation import log_softmax as log_softmax
from jaxnn.functional.activation import logsigmoid as logsigmoid
from jaxnn.functional.activation import mish as mish
from jaxnn.functional.activation import prelu as prelu
from jaxnn.functional.activation import relu as relu
from jaxnn.functional.activation import relu6 as relu6
from jaxnn.functional.activation import relu_ as relu_
from jaxnn.functional.activation import rrelu as rrelu
from jaxnn.functional.activation import rrelu_ as rrelu_
from jaxnn.functional.activation import selu as selu
from jaxnn.functional.activation import selu_ as selu_
from jaxnn.functional.activation import sigmoid as sigmoid
from jaxnn.functional.activation import silu as silu
from jaxnn.functional.activation import softmax as softmax
from jaxnn.functional.activation import softmin as softmin
from jaxnn.functional.activation import softplus as softplus
from jaxnn.functional.activation import softshrink as softshrink
from jaxnn.functional.activation import softsign as softsign
from jaxnn.functional.activation import tanh as tanh
from jaxnn.functional.activation import tanhshrink as tanhshrink
from jaxnn.functional.activation import threshold as threshold
from jaxnn.functional.activation import threshold_ as threshold_

# attention
from jaxnn.functional.attention import scaled_dot_product_attention as scaled_dot_product_attention
from jaxnn.functional.attention_multihead import multi_head_attention_forward as multi_head_attention_forward

# conv
from jaxnn.functional.conv import conv1d as conv1d
from jaxnn.functional.conv import conv2d as conv2d
from jaxnn.functional.conv import conv3d as conv3d
from jaxnn.functional.conv import conv_tbc as conv_tbc
from jaxnn.functional.conv_transpose import conv_transpose1d as conv_transpose1d
from jaxnn.functional.conv_transpose import conv_transpose2d as conv_transpose2d
from jaxnn.functional.conv_transpose import conv_transpose3d as conv_transpose3d

# distance
from jaxnn.functional.distance import cosine_similarity as cosine_similarity
from jaxnn.functional.distance import pairwise_distance as pairwise_distance
from jaxnn.functional.distance import pdist as pdist

# dropout
from jaxnn.functional.dropout import alpha_dropout as alpha_dropout
from jaxnn.functional.dropout import dropout as dropout
from jaxnn.functional.dropout import dropout1d as dropout1d
from jaxnn.functional.dropout import dropout2d as dropout2d
from jaxnn.functional.dropout import dropout3d as dropout3d
from jaxnn.functional.dropout import feature_alpha_dropout as feature_alpha_dropout

# pooling
# recurrent
# sparse
from jaxnn.functional.embedding_bag import embedding_bag as embedding_bag

# fold
from jaxnn.functional.fold import fold as fold
from jaxnn.functional.fold import unfold as unfold
from jaxnn.functional.grid import affine_grid as affine_grid
from jaxnn.functional.grid import grid_sample as grid_sample
from jaxnn.functional.grouped import grouped_mm as grouped_mm
from jaxnn.functional.interpolation import interpolate as interpolate
from jaxnn.functional.interpolation import upsample as upsample
from jaxnn.functional.interpolation import upsample_bilinear as upsample_bilinear
from jaxnn.functional.interpolation import upsample_nearest as upsample_nearest

# linear
from jaxnn.functional.linear import bilinear as bilinear
from jaxnn.functional.linear import linear as linear

# loss
from jaxnn.functional.loss import binary_cross_entropy as binary_cross_entropy
from jaxnn.functional.loss import binary_cross_entropy_with_logits as binary_cross_entropy_with_logits
from jaxnn.functional.loss import cosine_embedding_loss as cosine_embedding_loss
from jaxnn.functional.loss import cross_entropy as cross_entropy
from jaxnn.functional.loss import ctc_loss as ctc_loss
from jaxnn.functional.loss import gaussian_nll_loss as gaussian_nll_loss
from jaxnn.functional.loss import hinge_embedding_loss as hinge_embedding_loss
from jaxnn.functional.loss import huber_loss as huber_loss
from jaxnn.functional.loss import kl_div as kl_div
from jaxnn.functional.loss import l1_loss as l1_loss
from jaxnn.functional.loss import linear_cross_entropy as linear_cross_entropy
from jaxnn.functional.loss import margin_ranking_loss as margin_ranking_loss
from jaxnn.functional.loss import mse_loss as mse_loss
from jaxnn.functional.loss import multi_margin_loss as multi_margin_loss
from jaxnn.functional.loss import multilabel_margin_loss as multilabel_margin_loss
from jaxnn.functional.loss import multilabel_soft_margin_loss as multilabel_soft_margin_loss
from jaxnn.functional.loss import nll_loss as nll_loss
from jaxnn.functional.loss import poisson_nll_loss as poisson_nll_loss
from jaxnn.functional.loss import smooth_l1_loss as smooth_l1_loss
from jaxnn.functional.loss import soft_margin_loss as soft_margin_loss
from jaxnn.functional.loss import triplet_margin_loss as triplet_margin_loss
from jaxnn.functional.loss import triplet_margin_with_distance_loss as triplet_margin_with_distance_loss

# normalization
from jaxnn.functional.normalization import group_norm as group_norm
from jaxnn.functional.normalization import layer_norm as layer_norm
from jaxnn.functional.normalization import rms_norm as rms_norm
from jaxnn.functional.normalization_batch import batch_norm as batch_norm
from jaxnn.functional.normalization_batch import instance_norm as instance_norm
from jaxnn.functional.normalization_local import local_response_norm as local_response_norm
from jaxnn.functional.normalization_local import normalize as normalize

# padding
from jaxnn.functional.padding import pad as pad
from jaxnn.functional.pixel import channel_shuffle as channel_shuffle
from jaxnn.functional.pixel import native_channel_shuffle as native_channel_shuffle
from jaxnn.functional.pixel import pixel_shuffle as pixel_shuffle
from jaxnn.functional.pixel import pixel_unshuffle as pixel_unshuffle
from jaxnn.functional.pooling import avg_pool1d as avg_pool1d
from jaxnn.functional.pooling import avg_pool2d as avg_pool2d
from jaxnn.functional.pooling import avg_pool3d as avg_pool3d
from jaxnn.functional.pooling import lp_pool1d as lp_pool1d
from jaxnn.functional.pooling import lp_pool2d as lp_pool2d
from jaxnn.functional.pooling import lp_pool3d as lp_pool3d
from jaxnn.functional.pooling import max_pool1d as max_pool1d
from jaxnn.functional.pooling import max_pool1d_with_indices as max_pool1d_with_indices
from jaxnn.functional.pooling import max_pool2d as max_pool2d
from jaxnn.functional.pooling import max_pool2d_with_indices as max_pool2d_with_indices
from jaxnn.functional.pooling import max_pool3d as max_pool3d
from jaxnn.functional.pooling import max_pool3d_with_indices as max_pool3d_with_indices
from jaxnn.functional.pooling_adaptive import adaptive_avg_pool1d as adaptive_avg_pool1d
from jaxnn.functional.pooling_adaptive import adaptive_avg_pool2d as adaptive_avg_pool2d
from jaxnn.functional.pooling_adaptive import adaptive_avg_pool3d as adaptive_avg_pool3d
from jaxnn.functional.pooling_adaptive import adaptive_max_pool1d as adaptive_max_pool1d
from jaxnn.functional.pooling_adaptive import adaptive_max_pool1d_with_indices as adaptive_max_pool1d_with_indices
from jaxnn.functional.pooling_adaptive import adaptive_max_pool2d as adaptive_max_pool2d
from jaxnn.functional.pooling_adaptive import adaptive_max_pool2d_with_indices as adaptive_max_pool2d_with_indices
from jaxnn.functional.pooling_adaptive import adaptive_max_pool3d as adaptive_max_pool3d
from jaxnn.functional.pooling_adaptive import adaptive_max_pool3d_with_indices as adaptive_max_pool3d_with_indices
from jaxnn.functional.pooling_fractional import fractional_max_pool2d as fractional_max_pool2d
from jaxnn.functional.pooling_fractional import fractional_max_pool2d_with_indices as fractional_max_pool2d_with_indices
from jaxnn.functional.pooling_fractional import fractional_max_pool3d as fractional_max_pool3d
from jaxnn.functional.pooling_fractional import fractional_max_pool3d_with_indices as fractional_max_pool3d_with_indices
from jaxnn.functional.scaled import ScalingType as ScalingType
from jaxnn.functional.scaled import SwizzleType as SwizzleType
from jaxnn.functional.scaled import scaled_mm as scaled_mm
from jaxnn.functional.sparse import embedding as embedding
from jaxnn.functional.sparse import one_hot as one_hot
from jaxnn.functional.unpooling import max_unpool1d as max_unpool1d
from jaxnn.functional.unpooling import max_unpool2d as max_unpool2d
from jaxnn.functional.unpooling import max_unpool3d as max_unpool3d

# vision


def __dir__() -> list[str]:
    return _public_names(globals())

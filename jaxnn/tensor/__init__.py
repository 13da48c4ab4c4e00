"""torch's functions of tensors that no single line of jax.numpy says, by torch's names and with torch's numbers."""

from jaxnn.base.names import public_names as _public_names
from jaxnn.tensor.dispatching import NotPorted as NotPorted
from jaxnn.tensor.dispatching import dispatch as dispatch
from jaxnn.tensor.dispatching import is_tensor as is_tensor
from jaxnn.tensor.dispatching import not_ported as not_ported
from jaxnn.tensor.expecting import expect as expect
from jaxnn.tensor.function import Function as Function
from jaxnn.tensor.indexing import gather as gather
from jaxnn.tensor.indexing import index_add as index_add
from jaxnn.tensor.indexing import index_copy as index_copy
from jaxnn.tensor.indexing import index_fill as index_fill
from jaxnn.tensor.indexing import masked_scatter as masked_scatter
from jaxnn.tensor.indexing import scatter as scatter
from jaxnn.tensor.indexing import scatter_add as scatter_add
from jaxnn.tensor.indexing import scatter_reduce as scatter_reduce
from jaxnn.tensor.measures import cdist as cdist
from jaxnn.tensor.measures import norm as norm
from jaxnn.tensor.ordering import max as max
from jaxnn.tensor.ordering import median as median
from jaxnn.tensor.ordering import min as min
from jaxnn.tensor.ordering import sort as sort
from jaxnn.tensor.ordering import topk as topk
from jaxnn.tensor.shapes import chunk as chunk
from jaxnn.tensor.shapes import diag_embed as diag_embed
from jaxnn.tensor.shapes import expand as expand
from jaxnn.tensor.shapes import split as split
from jaxnn.tensor.shapes import squeeze as squeeze
from jaxnn.tensor.shapes import unflatten as unflatten
from jaxnn.tensor.shapes import unfold as unfold
from jaxnn.tensor.shapes import view as view
from jaxnn.tensor.spectral import istft as istft
from jaxnn.tensor.spectral import stft as stft
from jaxnn.tensor.writing import filled as filled
from jaxnn.tensor.writing import set_item as set_item
from jaxnn.tensor.writing import to as to
from jaxnn.tensor.writing import wide as wide
from jaxnn.tensor.writing import write as write


def __dir__() -> list[str]:
    return _public_names(globals())

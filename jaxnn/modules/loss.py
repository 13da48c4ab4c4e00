"""All losses of torch.nn under torch's own file name; each kind has its own file."""

from jaxnn.modules._loss import _Loss as _Loss
from jaxnn.modules._loss import _WeightedLoss as _WeightedLoss
from jaxnn.modules.loss_classification import BCELoss as BCELoss
from jaxnn.modules.loss_classification import BCEWithLogitsLoss as BCEWithLogitsLoss
from jaxnn.modules.loss_classification import CrossEntropyLoss as CrossEntropyLoss
from jaxnn.modules.loss_classification import CTCLoss as CTCLoss
from jaxnn.modules.loss_classification import KLDivLoss as KLDivLoss
from jaxnn.modules.loss_classification import LinearCrossEntropyLoss as LinearCrossEntropyLoss
from jaxnn.modules.loss_classification import NLLLoss as NLLLoss
from jaxnn.modules.loss_classification import NLLLoss2d as NLLLoss2d
from jaxnn.modules.loss_margin import CosineEmbeddingLoss as CosineEmbeddingLoss
from jaxnn.modules.loss_margin import HingeEmbeddingLoss as HingeEmbeddingLoss
from jaxnn.modules.loss_margin import MarginRankingLoss as MarginRankingLoss
from jaxnn.modules.loss_margin import MultiLabelMarginLoss as MultiLabelMarginLoss
from jaxnn.modules.loss_margin import MultiLabelSoftMarginLoss as MultiLabelSoftMarginLoss
from jaxnn.modules.loss_margin import MultiMarginLoss as MultiMarginLoss
from jaxnn.modules.loss_margin import SoftMarginLoss as SoftMarginLoss
from jaxnn.modules.loss_margin import TripletMarginLoss as TripletMarginLoss
from jaxnn.modules.loss_margin import TripletMarginWithDistanceLoss as TripletMarginWithDistanceLoss
from jaxnn.modules.loss_regression import GaussianNLLLoss as GaussianNLLLoss
from jaxnn.modules.loss_regression import HuberLoss as HuberLoss
from jaxnn.modules.loss_regression import L1Loss as L1Loss
from jaxnn.modules.loss_regression import MSELoss as MSELoss
from jaxnn.modules.loss_regression import PoissonNLLLoss as PoissonNLLLoss
from jaxnn.modules.loss_regression import SmoothL1Loss as SmoothL1Loss

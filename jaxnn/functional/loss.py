"""All losses of ``torch.nn.functional`` under one name; each kind has its own file."""

from jaxnn.functional._loss import legacy_get_string as legacy_get_string
from jaxnn.functional.ctc import ctc_loss as ctc_loss
from jaxnn.functional.linear_cross_entropy import linear_cross_entropy as linear_cross_entropy
from jaxnn.functional.loss_classification import cross_entropy as cross_entropy
from jaxnn.functional.loss_classification import nll_loss as nll_loss
from jaxnn.functional.loss_margin import cosine_embedding_loss as cosine_embedding_loss
from jaxnn.functional.loss_margin import hinge_embedding_loss as hinge_embedding_loss
from jaxnn.functional.loss_margin import margin_ranking_loss as margin_ranking_loss
from jaxnn.functional.loss_margin import soft_margin_loss as soft_margin_loss
from jaxnn.functional.loss_margin import triplet_margin_loss as triplet_margin_loss
from jaxnn.functional.loss_margin import triplet_margin_with_distance_loss as triplet_margin_with_distance_loss
from jaxnn.functional.loss_multiclass_margin import multi_margin_loss as multi_margin_loss
from jaxnn.functional.loss_multiclass_margin import multilabel_margin_loss as multilabel_margin_loss
from jaxnn.functional.loss_multiclass_margin import multilabel_soft_margin_loss as multilabel_soft_margin_loss
from jaxnn.functional.loss_probability import binary_cross_entropy as binary_cross_entropy
from jaxnn.functional.loss_probability import binary_cross_entropy_with_logits as binary_cross_entropy_with_logits
from jaxnn.functional.loss_probability import kl_div as kl_div
from jaxnn.functional.loss_regression import gaussian_nll_loss as gaussian_nll_loss
from jaxnn.functional.loss_regression import huber_loss as huber_loss
from jaxnn.functional.loss_regression import l1_loss as l1_loss
from jaxnn.functional.loss_regression import mse_loss as mse_loss
from jaxnn.functional.loss_regression import poisson_nll_loss as poisson_nll_loss
from jaxnn.functional.loss_regression import smooth_l1_loss as smooth_l1_loss

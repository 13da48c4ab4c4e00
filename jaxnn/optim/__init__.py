"""torch.optim's optimizers, by name and by number, and any optax transformation."""

from jaxnn.base.names import public_names as _public_names
from jaxnn.optim import lr_scheduler as lr_scheduler
from jaxnn.optim import swa_utils as swa_utils
from jaxnn.optim._adafactor import Adafactor as Adafactor
from jaxnn.optim._as_transformation import as_transformation as as_transformation
from jaxnn.optim._hooks import register_optimizer_step_post_hook as register_optimizer_step_post_hook
from jaxnn.optim._hooks import register_optimizer_step_pre_hook as register_optimizer_step_pre_hook
from jaxnn.optim._muon import Muon as Muon
from jaxnn.optim.adadelta import Adadelta as Adadelta
from jaxnn.optim.adagrad import Adagrad as Adagrad
from jaxnn.optim.adam import Adam as Adam
from jaxnn.optim.adamax import Adamax as Adamax
from jaxnn.optim.adamw import AdamW as AdamW
from jaxnn.optim.asgd import ASGD as ASGD
from jaxnn.optim.lbfgs import LBFGS as LBFGS
from jaxnn.optim.nadam import NAdam as NAdam
from jaxnn.optim.optimizer import Optimizer as Optimizer
from jaxnn.optim.radam import RAdam as RAdam
from jaxnn.optim.rmsprop import RMSprop as RMSprop
from jaxnn.optim.rprop import Rprop as Rprop
from jaxnn.optim.sgd import SGD as SGD
from jaxnn.optim.sparse_adam import SparseAdam as SparseAdam


def __dir__() -> list[str]:
    return _public_names(globals(), "lr_scheduler", "swa_utils")

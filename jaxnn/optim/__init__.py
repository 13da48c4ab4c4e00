"""torch.optim's optimizers, by name and by number, over optax's transformations."""

from jaxnn.optim.adagrad import Adagrad as Adagrad
from jaxnn.optim.adam import Adam as Adam
from jaxnn.optim.adam import AdamW as AdamW
from jaxnn.optim.optimizer import Optimizer as Optimizer
from jaxnn.optim.rmsprop import RMSprop as RMSprop
from jaxnn.optim.sgd import SGD as SGD

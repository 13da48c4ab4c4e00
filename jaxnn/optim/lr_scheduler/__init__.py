"""torch.optim.lr_scheduler: learning rates from one epoch to the next, inside a compiled step or outside."""

from jaxnn.base.names import public_names as _public_names
from jaxnn.optim.lr_scheduler._combined import ChainedScheduler as ChainedScheduler
from jaxnn.optim.lr_scheduler._combined import SequentialLR as SequentialLR
from jaxnn.optim.lr_scheduler._cosine import CosineAnnealingLR as CosineAnnealingLR
from jaxnn.optim.lr_scheduler._cosine import CosineAnnealingWarmRestarts as CosineAnnealingWarmRestarts
from jaxnn.optim.lr_scheduler._cyclic import CyclicLR as CyclicLR
from jaxnn.optim.lr_scheduler._cyclic import OneCycleLR as OneCycleLR
from jaxnn.optim.lr_scheduler._plateau import ReduceLROnPlateau as ReduceLROnPlateau
from jaxnn.optim.lr_scheduler._simple import ConstantLR as ConstantLR
from jaxnn.optim.lr_scheduler._simple import ExponentialLR as ExponentialLR
from jaxnn.optim.lr_scheduler._simple import LambdaLR as LambdaLR
from jaxnn.optim.lr_scheduler._simple import LinearLR as LinearLR
from jaxnn.optim.lr_scheduler._simple import MultiplicativeLR as MultiplicativeLR
from jaxnn.optim.lr_scheduler._simple import MultiStepLR as MultiStepLR
from jaxnn.optim.lr_scheduler._simple import PolynomialLR as PolynomialLR
from jaxnn.optim.lr_scheduler._simple import StepLR as StepLR
from jaxnn.optim.lr_scheduler.base import LRScheduler as LRScheduler


def __dir__() -> list[str]:
    return _public_names(globals())

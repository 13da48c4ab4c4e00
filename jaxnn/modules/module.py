"""`Module` and the hooks of all modules, where torch keeps them: ``torch.nn.modules.module``."""

from jaxnn.core.hooks import register_module_backward_hook as register_module_backward_hook
from jaxnn.core.hooks import register_module_buffer_registration_hook as register_module_buffer_registration_hook
from jaxnn.core.hooks import register_module_forward_hook as register_module_forward_hook
from jaxnn.core.hooks import register_module_forward_pre_hook as register_module_forward_pre_hook
from jaxnn.core.hooks import register_module_full_backward_hook as register_module_full_backward_hook
from jaxnn.core.hooks import register_module_full_backward_pre_hook as register_module_full_backward_pre_hook
from jaxnn.core.hooks import register_module_module_registration_hook as register_module_module_registration_hook
from jaxnn.core.hooks import register_module_parameter_registration_hook as register_module_parameter_registration_hook
from jaxnn.core.module import Module as Module
from jaxnn.core.state_dict import EXTRA_STATE as _EXTRA_STATE_KEY_SUFFIX  # noqa: F401
from jaxnn.core.state_dict import IncompatibleKeys as _IncompatibleKeys  # noqa: F401

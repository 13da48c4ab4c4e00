from jaxnn.utils.data._utils import collate as collate
from jaxnn.utils.data._utils import fetch as fetch
from jaxnn.utils.data._utils import worker as worker

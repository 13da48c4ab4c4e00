"""Methods that write, where taking the underscore away does not say what is written. The text is the new value."""

from jaxnn.port.rules.row import Row

# fmt: off
ROWS = (
    Row("copy_", "x, src, non_blocking=False", "jnp.broadcast_to({src}, {x}.shape).astype({x}.dtype)", "x.clone().copy_(v)", form="method"),
    Row("zero_", "x", "jnp.zeros_like({x})", "x.clone().zero_()", form="method"),
    Row("fill_", "x, value", "jnp.full_like({x}, {value})", "x.clone().fill_(2.0)", form="method"),
    Row("fill_diagonal_", "x, value", "jnp.fill_diagonal({x}, {value}, inplace=False)", "a[:, :3].clone().fill_diagonal_(2.0)", form="method"),
)

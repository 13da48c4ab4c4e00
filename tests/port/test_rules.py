"""Each row of the table, on its example: torch's text under torch, the ported text under JAX, values and gradients."""

import numpy as np
import pytest

from jaxnn.port import port_source
from jaxnn.port.rules import EXAMPLES, Row, rows

torch = pytest.importorskip("torch")

HEAD = "import numpy as np\nimport torch\n\n\ndef f({}):\n    {}return {}\n"
_IDS = [f"{at}-{row.torch}" for at, row in enumerate(rows())]


def _inputs() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    found: dict[str, np.ndarray] = {}
    for name, (dtype, shape, low, high) in EXAMPLES.items():
        if dtype == "bool":
            found[name] = rng.random(shape) < 0.5
        elif dtype.startswith("int"):
            found[name] = rng.integers(low, high, shape).astype(dtype)
        else:
            real = rng.uniform(low, high, shape)
            found[name] = (real + 1j * rng.uniform(low, high, shape) if dtype == "complex64" else real).astype(dtype)
    return found


INPUTS = _inputs()


def _source(row: Row) -> str:
    *before, last = row.example.split("; ")
    lines = "".join(f"{line}\n    " for line in before)
    return HEAD.format(", ".join([*(f"{name}: torch.Tensor" for name in EXAMPLES), "n=2"]), lines, last)


def _run(text: str, arrays):
    space: dict = {}
    exec(compile(text, "<row>", "exec"), space)
    return space["f"](*arrays)


def _flat(value) -> list:
    return [v for one in value for v in _flat(one)] if isinstance(value, (tuple, list)) else [value]


@pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated")  # torch's own forward mode says so
@pytest.mark.parametrize("row", rows(), ids=_IDS)
def test_example(row):
    import jax.numpy as jnp

    source = _source(row)
    ported = port_source(source)
    assert row in [site.row for site in ported.sites], f"another row was used: {ported.text}"
    assert "torch" not in ported.text
    theirs = _run(source, [torch.from_numpy(a) for a in INPUTS.values()])
    ours = _run(ported.text, [jnp.asarray(a) for a in INPUTS.values()])
    theirs, ours = _flat(theirs), _flat(ours)
    assert len(theirs) == len(ours)
    for t, o in zip(theirs, ours):
        if isinstance(t, torch.Tensor):
            assert tuple(t.shape) == o.shape
            expected = str(t.dtype).removeprefix("torch.").replace("int64", "int32").replace("float64", "float32")
            assert o.dtype == expected, (t.dtype, o.dtype)
            np.testing.assert_allclose(
                np.asarray(o).astype(str(np.asarray(o).dtype).replace("bfloat16", "float32")),
                (t.float() if t.dtype is torch.bfloat16 else t).numpy(),
                rtol=2e-5,
                atol=2e-6,
            )
        elif isinstance(t, float):
            assert o == pytest.approx(t, rel=1e-6)
        else:
            assert np.array_equal(o, t), (t, o)

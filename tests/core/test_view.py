"""What a notebook shows of a module: treescope's view where it is installed, the plain text where it is not."""

import sys

import jax
import jax.numpy as jnp
import pytest

import jaxnn as nn

# treescope asks NumPy for a class that NumPy 2.5 deprecates.
pytestmark = pytest.mark.filterwarnings("ignore:The chararray class:DeprecationWarning")


class Net(nn.Module):
    """Layers of every kind of attribute, one of them under two names."""

    def __init__(self):
        super().__init__()
        self.depth = 3
        self.cache = jnp.arange(2.0)
        self.body = nn.Sequential(nn.Linear(3, 4), nn.ReLU())
        self.heads = nn.ModuleDict({"one": nn.LazyLinear(2), "two": self.body[0]})
        self.scale = nn.Buffer(jnp.ones(2))
        self.body[0].get_parameter("bias").requires_grad = False
        self.register_parameter("nothing", None)


@pytest.fixture
def treescope():
    return pytest.importorskip("treescope")


def test_the_view_names_every_array_option_and_child(treescope):
    text = treescope.render_to_text(Net().eval())
    for part in (
        "depth=3",
        "training=False",
        "cache=<jax.Array([0., 1.]",
        "0: Linear(",
        "'one': LazyLinear(",
        "weight=UninitializedParameter()",
        "scale=Buffer(",
        "jax.Array float32(4, 3)",
        "nothing=None",
    ):
        assert part in text, part
    assert text.count("requires_grad=False") == 2  # one box under two names
    assert "_home" not in text and "_scope" not in text


def test_counters_are_shown_as_the_integers_they_are(treescope):
    norm = nn.BatchNorm2d(3)
    assert "num_batches_tracked=Buffer(data=<jax.Array(0, dtype=int32)>)" in treescope.render_to_text(norm)
    assert "Array(0, dtype=int32)" in repr(norm.get_buffer("num_batches_tracked"))


def test_abstract_and_traced_modules_are_shown(treescope):
    abstract = jax.eval_shape(lambda: nn.Linear(2, 2))
    assert "ShapeDtypeStruct" in treescope.render_to_text(abstract)
    seen = []
    jax.jit(lambda m: seen.append(treescope.render_to_text(m)))(nn.Linear(2, 2))
    assert "in_features=2" in seen[0] and "float32[2,2]" in seen[0]


def test_a_notebook_is_given_the_view_and_the_text(treescope):
    net = Net()
    shown = net._repr_mimebundle_()
    assert shown.keys() == {"text/plain", "text/html"} and shown["text/plain"] == repr(net)
    assert "treescope" in shown["text/html"] and len(shown["text/html"]) < 1_000_000


def test_without_treescope_the_plain_text_is_all(monkeypatch):
    monkeypatch.setitem(sys.modules, "treescope", None)  # importing it fails
    assert Net()._repr_mimebundle_() is None

"""What public packages showed: each a few lines that were ported wrong once, run on both sides from one seed."""

import textwrap

import numpy as np
import pytest

import jaxnn as nn
from jaxnn.port import port_source

torch = pytest.importorskip("torch", reason="the original runs under torch")

FILLED = """
    import torch
    from torch import nn

    class Net(nn.Module):
        def __init__(self, n=4, use_bias=True):
            super().__init__()
            weight = torch.zeros(n, 3)
            bias = torch.zeros(n) if use_bias else None
            self.init_(weight, bias, c=3.0)
            self.weight = nn.Parameter(weight)
            self.bias = nn.Parameter(bias) if use_bias else None

        def init_(self, weight, bias, c):
            weight.uniform_(-c, c)
            if bias is not None:
                bias.uniform_(-c, c)
"""
CHAINED = """
    import torch
    from torch import nn

    def scaled_(tensor, std):
        return tensor.normal_(0, std).clamp_(-std, std)

    def shifted_(tensor):
        tensor.uniform_()
        tensor.mul_(2).sub_(1)
        tensor[0] = 0.5
        return tensor

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = nn.Linear(3, 20)
            self.out = nn.Linear(3, 3)
            scaled_(self.fc.weight.data, 0.5)
            shifted_(self.fc.bias.data)
            with torch.no_grad():
                for module in self.modules():
                    if isinstance(module, nn.Linear):
                        module.weight.mul_(0.5)
"""
CHOSEN = """
    import torch
    import torch.nn.functional as F
    from torch import nn

    class Block(nn.Module):
        def __init__(self, act=F.relu, norm=nn.LayerNorm):
            super().__init__()
            self.act, self.norm, self.op = act, norm(3), F.gelu

        def forward(self, x):
            return self.op(self.act(self.norm(x)))

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = nn.Linear(3, 3)
            self.one, self.two = Block(norm=nn.BatchNorm1d), Block(torch.tanh)

        def forward(self, x):
            return self.two(self.one(self.fc(x)))
"""
DTYPE = """
    import torch
    from torch import nn

    class Net(nn.Module):
        def __init__(self, dtype=torch.float32):
            super().__init__()
            self.register_buffer("a", torch.ones(2, dtype=dtype))

    def make():
        return Net(torch.float16)
"""


def _both(text):
    text, found = textwrap.dedent(text), []
    for source, seed in ((text, torch.manual_seed), (port_source(text).text, nn.manual_seed)):
        namespace = {}
        exec(source, namespace)
        seed(0)
        found.append(namespace.get("make", namespace["Net"])())
    return found


@pytest.mark.parametrize("text", [FILLED, CHAINED, CHOSEN, DTYPE], ids=["filled", "chained", "chosen", "dtype"])
def test_keys_and_weights(text):
    original, ported = _both(text)
    theirs, ours = original.state_dict(), ported.state_dict()
    assert list(ours) == list(theirs)
    for name, value in theirs.items():
        np.testing.assert_array_equal(np.asarray(ours[name]), value.numpy())
        assert str(ours[name].dtype)[-2:] == str(value.dtype)[-2:]


def test_a_function_that_was_given_is_the_one_that_is_called():
    original, ported = _both(CHOSEN)
    x = np.random.default_rng(0).standard_normal((4, 3)).astype(np.float32)
    np.testing.assert_allclose(
        ported.eval()(x), original.eval()(torch.from_numpy(x)).detach().numpy(), rtol=1e-5, atol=1e-6
    )


def test_an_array_that_no_module_owns_is_not_left_as_it_was():
    text = "import torch\n\n\ndef reset_(weight):\n    weight.normal_()\n    weight[0] = 3.0\n"
    namespace = {}
    exec(port_source(text).text, namespace)
    box = nn.Parameter(np.zeros(3, np.float32))
    namespace["reset_"](box)
    assert box.tolist()[0] == 3 and box.tolist()[1] != 0
    with pytest.raises(TypeError, match="no module owns"):
        namespace["reset_"](box.value + 0)


@pytest.mark.parametrize("line", ["y[:, i] = f(i)", "y[..., i:] = f(i)", "y[1:, None] = f(i)", "y[::2] = f(i)"])
def test_what_is_written_is_python(line):
    head = "import numpy as np\nimport torch\n\n\n@torch.jit.script\ndef g(y, f, i: int):\n    y = y.copy()\n"
    text = f"{head}    {line}\n    return y\n"
    compile(port_source(text).text, "<ported>", "exec")

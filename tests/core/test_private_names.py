"""What accelerate, timm and peft do to a module by hand, beside torch: each pattern gives the same answer on both."""

import functools
import pickle
import types
from collections import OrderedDict

import jax
import jax.numpy as jnp
import pytest

import jaxnn

torch = pytest.importorskip("torch")


class Kit:
    """One side: its nn, and its arrays of ones."""

    def __init__(self, nn, ones):
        self.nn, self.ones = nn, ones
        self.x = ones((2, 3))

    def net(self):
        return self.nn.Sequential(self.nn.Linear(3, 3), self.nn.BatchNorm1d(3))

    def linear(self):
        return self.nn.Linear(3, 3)


def parameter_replaced(k):
    m, new = k.linear(), k.nn.Parameter(k.ones((3, 3)))
    m._parameters["weight"] = new
    return m._parameters["weight"] is new, m(k.x).sum().item() != 0, list(m.state_dict())


def parameter_popped(k):
    m = k.linear()
    m._parameters.pop("bias")
    m._parameters["bias"] = None
    return m.bias is None, list(m.state_dict()), [(name, p is None) for name, p in m._parameters.items()]


def parameter_rebuilt_with_its_attributes(k):
    m = k.linear()
    old = m._parameters["weight"]
    old.mark = 1
    new = m._parameters["weight"] = type(old)(old.data, requires_grad=old.requires_grad)
    for name, value in old.__dict__.items():
        setattr(new, name, value)
    return new.mark, sorted(old.__dict__)


def buffer_put(k):
    m = k.net()
    m._buffers["extra"] = k.ones((2,))
    m[1]._buffers["running_mean"] = k.ones((3,))
    names = [name for name, _ in m.named_buffers()]
    return list(m.state_dict()), names, tuple(m.extra.shape), m[1].running_mean.sum().item()


def persistence(k):
    m = k.linear()
    m.register_buffer("kept", k.ones((2,)))
    m.register_buffer("left", k.ones((2,)), persistent=False)
    before = sorted(m._non_persistent_buffers_set)
    m._non_persistent_buffers_set.add("kept")
    m._non_persistent_buffers_set.discard("left")
    return before, sorted(m._non_persistent_buffers_set), list(m.state_dict())


def module_put_and_deleted(k):
    m = k.net()
    m._modules["0"] = k.nn.Identity()
    del m._modules["1"]
    m.set_submodule("0", k.nn.Linear(3, 3))
    return [type(child).__name__ for child in m], type(m.get_submodule("0")).__name__, len(m)


def registries_replaced(k):
    m = k.net()
    m._modules = dict(m._modules)
    m[0]._parameters = dict(m[0]._parameters)
    m[1]._buffers = dict(m[1]._buffers)
    return list(m.state_dict())


def forward_replaced(k):
    m = k.linear()
    m._old_forward = m.forward

    def new_forward(module, *args, **kwargs):
        return module._old_forward(*args, **kwargs) * 0

    m.forward = functools.update_wrapper(functools.partial(new_forward, m), m.forward)
    zero = abs(m(k.x)).sum().item()
    m.forward = m._old_forward
    del m._old_forward
    m.forward = types.MethodType(lambda module, x: module.__class__.forward(module, x) * 0, m)
    return zero, abs(m(k.x)).sum().item(), hasattr(m, "_old_forward")


def accelerates_hook(k):
    m = k.linear()
    m._hf_hook = object()
    there = hasattr(m, "_hf_hook")
    m.__dict__.pop("_hf_hook")
    return there, hasattr(m, "_hf_hook")


def class_swapped(k):
    m = k.linear()
    m.__class__ = type("Zero", (type(m),), {"forward": lambda self, x: x * 0})
    return type(m).__name__, m(k.x).sum().item()


def dict_taken_over(k):
    a, b, c = k.linear(), k.linear(), k.linear()
    b.__dict__.update(a.__dict__)
    c.__dict__ = a.__dict__
    d = type(a).__new__(type(a))
    d.__dict__.update(a.__dict__)
    d._parameters = a._parameters.copy()
    same = [other._parameters["weight"] is a._parameters["weight"] for other in (b, c, d)]
    return same, tuple(d(k.x).shape)


def call_hooks(k):
    m, function = k.linear(), lambda module, args, output: output * 0
    first, second = m.register_forward_hook(function), m.register_forward_hook(function)
    m.register_forward_pre_hook(lambda module, args: None)
    counts = [len(getattr(m, name)) for name in ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks")]
    functions = [each is function for each in m._forward_hooks.values()], first.id in m._forward_hooks
    m._forward_hooks.pop(first.id)
    left = list(m._forward_hooks) == [second.id], abs(m(k.x)).sum().item()
    m._forward_hooks.clear()
    cleared = len(m._forward_hooks), abs(m(k.x)).sum().item() > 0
    m.register_forward_hook(function)
    m._forward_hooks = OrderedDict()
    second.remove()
    return counts, functions, left, cleared, abs(m(k.x)).sum().item() > 0


def call_hook_put_in_by_hand(k):
    m = k.linear()
    m._forward_hooks[12345] = lambda module, args, output: output * 0
    return abs(m(k.x)).sum().item(), len(m._forward_hooks)


def state_dict_hooks(k):
    m = k.linear()
    m._register_state_dict_hook(lambda module, state, prefix, metadata: state)
    m._register_load_state_dict_pre_hook(lambda *args: None)
    m.register_load_state_dict_post_hook(lambda module, keys: None)
    names = "_state_dict_hooks", "_state_dict_pre_hooks", "_load_state_dict_pre_hooks", "_load_state_dict_post_hooks"
    return [len(getattr(m, name)) for name in names]


def loading_overridden(k):
    class Renamed(k.nn.Linear):
        def _load_from_state_dict(self, state_dict, prefix, *args):
            state_dict[f"{prefix}weight"] = state_dict.pop(f"{prefix}w")
            super()._load_from_state_dict(state_dict, prefix, *args)

    m = Renamed(2, 2)
    state = dict(m.state_dict())
    state["w"] = state.pop("weight")
    return str(m.load_state_dict(state))


def applied(k):
    seen = []
    k.net()._apply(lambda array: (seen.append(tuple(array.shape)), array)[1])
    return seen


def wrapper_with_getattr(k):
    class Wrapper(k.nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = k.nn.Linear(3, 3)

        def __getattr__(self, name):
            try:
                return super().__getattr__(name)
            except AttributeError:
                if name == "inner":
                    raise
                return getattr(self.inner, name)

    m = Wrapper()
    return m.in_features, tuple(m.weight.shape)


def names_of_torch(k):
    m = k.linear()
    m.train = lambda mode=True: m
    m.eval()
    object.__setattr__(m, "tag", 5)
    private = m._get_name(), m._version, m._is_full_backward_hook, tuple(m._call_impl(k.x).shape)
    return private, m.training, m.tag, "tag" in m.__dict__


PATTERNS = [
    parameter_replaced, parameter_popped, parameter_rebuilt_with_its_attributes, buffer_put, persistence,
    module_put_and_deleted, registries_replaced, forward_replaced, accelerates_hook, class_swapped, dict_taken_over,
    call_hooks, call_hook_put_in_by_hand, state_dict_hooks, loading_overridden, applied, wrapper_with_getattr, names_of_torch,
]  # fmt: skip


@pytest.mark.parametrize("pattern", PATTERNS, ids=lambda pattern: pattern.__name__)
def test_a_pattern_of_other_packages_does_what_it_does_to_torchs_module(pattern):
    assert pattern(Kit(jaxnn, jnp.ones)) == pattern(Kit(torch.nn, torch.ones))


def test_compiled_code_follows_what_was_put_in_by_hand():
    m = jaxnn.Linear(3, 3)
    call = jaxnn.jit(lambda m, x: m(x))
    x = jnp.ones((2, 3))
    assert float(abs(call(m, x)).sum()) > 0
    m._forward_hooks[7] = lambda module, args, output: output * 0
    assert float(abs(call(m, x)).sum()) == 0
    m._forward_hooks.clear()
    m._parameters["weight"] = jaxnn.Parameter(jnp.zeros((3, 3)))
    m._buffers["extra"] = jnp.ones(3)
    assert jnp.array_equal(call(m, x)[0], m.bias) and len(jax.tree.leaves(m)) == 3
    assert sorted(pickle.loads(pickle.dumps(m)).state_dict()) == ["bias", "extra", "weight"]
    copy = jax.tree.map(lambda leaf: leaf, m)
    copy._buffers["more"] = jnp.ones(3)
    assert sorted(copy.state_dict()) == ["bias", "extra", "more", "weight"]

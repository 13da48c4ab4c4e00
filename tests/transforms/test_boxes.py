"""Parameters and buffers given to transforms by themselves: what is written to them comes back, as with their modules."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxnn as nn


def ones(value=1.0):
    return nn.Parameter(jnp.full(3, value, jnp.float32))


def double(p):
    p.mul_(2)
    return p.sum()


@nn.jit
def double_all(boxes):
    for p in boxes:
        p.mul_(2)


CALLS = {
    "eager": double,
    "nn.jit": nn.jit(double),
    "donated": nn.jit(double, donate_argnums=0),
    "by name": lambda p: nn.jit(lambda *, p: double(p))(p=p),
    "in a list": lambda p: double_all([p]),
    "compiled ahead": lambda p: nn.jit(double).lower(p).compile()(p),
    "beside a static argument": lambda p: nn.jit(lambda n, p: p.mul_(n).sum(), static_argnums=0)(2, p),
    "nn.checkpoint": nn.checkpoint(double),
    "nn.vmap": nn.vmap(double),
    "nn.grad": lambda p: nn.grad(lambda x, p: (double(p), (x * p.value).sum())[1])(jnp.ones(3), p),
    "nn.scan": lambda p: nn.scan(lambda p, _: ((double(p), p)[1], None), p, None, length=1),
    "in nn.jit": lambda p: nn.jit(lambda p: nn.jit(double)(p))(p),
}


@pytest.mark.parametrize("call", CALLS)
def test_what_is_written_in_place_comes_back(call):
    p, array = ones(), jnp.ones(3)
    CALLS[call](p)
    np.testing.assert_array_equal(p.value, 2 * array)
    CALLS[call](p)
    np.testing.assert_array_equal(p.value, 4 * array)


def test_a_box_given_twice_or_beside_its_module_is_one():
    p, q = ones(), ones(3.0)
    double_all([p, q, p])
    np.testing.assert_array_equal([p.value, q.value], [[4] * 3, [6] * 3])
    model = nn.Linear(3, 1, bias=False)
    model.weight = jnp.ones((1, 3))
    compiled = nn.jit(lambda model, p: (double(p), model(jnp.ones(3)).sum())[1])
    assert float(compiled(model, model.get_parameter("weight"))) == 6
    np.testing.assert_array_equal(model.weight, [[2, 2, 2]])


def test_options_come_back_and_the_box_is_itself():
    buffer, traces = nn.Buffer(jnp.zeros(3)), []

    @nn.jit
    def step(box):
        traces.append(1)
        box.add_(1)
        box.mark = 5
        return box

    assert step(buffer) is buffer and buffer.mark == 5
    for _ in range(2):
        step(buffer)
    np.testing.assert_array_equal(buffer, [3, 3, 3])
    assert len(traces) == 2  # the mark is configuration
    p = ones()
    nn.jit(lambda p: p.requires_grad_(False).sum())(p)
    assert not p.requires_grad


def test_a_function_that_fails_has_written_nothing_and_names_stay():
    model = nn.Linear(3, 3)
    p = model.get_parameter("bias")
    before = p.value

    def fails(p):
        p.mul_(2)
        raise ZeroDivisionError

    for _ in range(2):
        with pytest.raises(ZeroDivisionError):
            nn.jit(fails)(p)
        nn.jit(lambda boxes: boxes[0].sum())([p, ones()])
    assert p.value is before and p.label == "Linear.bias"


def test_gradients_of_boxes_are_as_before():
    gradients = nn.grad(lambda boxes: sum((p**2).sum() for p in boxes))([ones(), ones(2.0)])
    np.testing.assert_array_equal([g.value for g in gradients], [[2] * 3, [4] * 3])


def test_writing_to_data_that_is_an_argument_warns():
    p = ones()
    with pytest.warns(UserWarning, match="writes to a copy of it. Give it the parameter"):
        nn.jit(double)(p.data)
    np.testing.assert_array_equal(jax.jit(lambda data: data * 2)(p.data), [2, 2, 2])

"""What PyTorch's test_module_hooks.py checks of the call's hooks, in eager mode, under nn.jit and under jax.jit.

Under a jit a hook is part of what is traced: its Python runs once, on tracers and on a copy of the module.
"""

import functools
import gc

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxnn as nn
from jaxnn.modules import module as all_modules
from tests.runners import call, every_runner

X = jnp.asarray(np.random.default_rng(0).normal(size=(4, 3)).astype(np.float32))


class Pair(nn.Module):
    """Two chains one after the other, so that hooks sit below the root."""

    def __init__(self):
        super().__init__()
        self.one = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
        self.two = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))

    def forward(self, x):
        return self.two(self.one(x))


class Shifted(nn.Module):
    """Adds a keyword argument."""

    def forward(self, x, *, shift=None):
        return x if shift is None else x + shift

    def add_again(self, module, args, kwargs, out):
        return out + kwargs["shift"]


def loss(module, x):
    return module(x).sum()


def of_input(run, module, x=X, function=loss):
    """The gradient of `function` with respect to x, through `run`."""
    return run.wrap(lambda m, x: nn.grad(function, argnums=1)(m, x))(module, x)


# -- order and number -----------------------------------------------------------------------------------------------


@every_runner
@pytest.mark.parametrize("kind", ["forward", "forward_pre"])
def test_forward_hooks_run_in_order_once_for_each_run_of_the_python(run, kind):
    model, seen = Pair(), []
    register = getattr(model.two, f"register_{kind}_hook")
    for name, prepend in (("a", False), ("b", True), ("c", False), ("d", False), ("e", True)):
        register(lambda module, args, *out, name=name: seen.append(name), prepend=prepend)
    function = run.wrap(call)
    function(model, X)
    assert seen == ["e", "b", "a", "c", "d"]
    function(model, X)
    assert len(seen) == (5 if run.compiled else 10)


@every_runner
@pytest.mark.parametrize("kind", ["full_backward", "full_backward_pre"])
def test_backward_hooks_run_in_order_and_only_when_there_are_gradients(run, kind):
    model, seen = Pair(), []
    register = getattr(model.one, f"register_{kind}_hook")
    for name, prepend in (("a", False), ("b", False), ("c", True), ("d", True)):
        register(lambda module, *grads, name=name: seen.append(name), prepend=prepend)
    run.wrap(call)(model, X)
    assert not seen
    of_input(run, model)
    assert seen == ["d", "c", "a", "b"]


@every_runner
def test_all_four_kinds_run_in_the_order_of_the_computation(run):
    model, seen = Pair(), []
    model.register_full_backward_hook(lambda *_: seen.append("backward"))
    model.register_full_backward_pre_hook(lambda *_: seen.append("before backward"))
    model.register_forward_hook(lambda *_: seen.append("forward"))
    model.register_forward_pre_hook(lambda *_: seen.append("before forward"))
    of_input(run, model)
    assert seen == ["before forward", "forward", "before backward", "backward"]


@every_runner
def test_hooks_of_all_modules_run_before_the_modules_own(run):
    module, seen = nn.Sigmoid(), []
    note = lambda name: lambda *_: seen.append(name)  # noqa: E731
    module.register_forward_pre_hook(note("own before"))
    module.register_forward_hook(note("own after"))
    module.register_full_backward_hook(note("own backward"))
    with (
        all_modules.register_module_forward_pre_hook(note("all before")),
        all_modules.register_module_forward_hook(note("all after")),
        all_modules.register_module_backward_hook(note("all backward")),
    ):
        of_input(run, module)
    assert seen == ["all before", "own before", "all after", "own after", "all backward", "own backward"]


@every_runner
def test_hooks_of_all_modules_are_counted_over_modules_and_handles(run):
    modules, seen = [nn.Sigmoid() for _ in range(3)], []

    def forward_and_gradient():
        seen.clear()
        for module in modules:
            run.wrap(lambda m, x: nn.grad(loss, argnums=1)(m, x))(module, X)
        return seen.count("forward"), seen.count("backward")

    first = all_modules.register_module_forward_hook(lambda *_: seen.append("forward"))
    assert forward_and_gradient() == (3, 0)
    second = all_modules.register_module_full_backward_hook(lambda *_: seen.append("backward"))
    third = all_modules.register_module_full_backward_hook(lambda *_: seen.append("backward"))
    assert forward_and_gradient() == (3, 6)
    first.remove(), third.remove()
    assert forward_and_gradient() == (0, 3)
    second.remove()
    assert forward_and_gradient() == (0, 0)


# -- what a hook is given -------------------------------------------------------------------------------------------


@every_runner
def test_a_hook_is_given_the_module_or_while_tracing_a_copy_of_it(run):
    model, given = Pair(), []
    model.two.register_forward_hook(lambda module, args, out: given.append((module, args, out)))
    result = run.wrap(call)(model, X)
    ((module, args, out),) = given
    assert (module is model.two) == (not run.compiled) and repr(module) == repr(model.two)
    assert isinstance(args, tuple) and len(args) == 1 and out.shape == result.shape
    assert isinstance(out, jax.core.Tracer) == run.compiled


@every_runner
@pytest.mark.parametrize("name", ["register_backward_hook", "register_full_backward_hook"])
def test_a_backward_hook_is_given_tuples_of_gradients(run, name):
    module, shapes = nn.Sigmoid(), []

    def hook(module, grad_input, grad_output):
        assert isinstance(grad_input, tuple) and isinstance(grad_output, tuple)
        shapes.append([grad.shape for grad in (*grad_input, *grad_output)])
        return (grad_output[0],)  # brought out through what it replaces: the gradient of the output is 2

    getattr(module, name)(hook)
    np.testing.assert_array_equal(of_input(run, module, function=lambda m, x: (2 * m(x)).sum()), np.full((4, 3), 2.0))
    assert shapes == [[(4, 3), (4, 3)]]


@every_runner
def test_the_gradients_of_arguments_of_several_shapes_have_their_shapes(run):
    class Mixed(nn.Module):
        def forward(self, a, b):
            return jnp.broadcast_to((a.sum() * b).sum() + b.sum() * a.sum(), (8,))

    module, seen = Mixed(), []
    module.register_full_backward_hook(lambda m, gi, go: seen.append([grad.shape for grad in gi + go]))
    function = lambda m, a, b: nn.grad(lambda m, a, b: m(a, b).sum(), argnums=(1, 2))(m, a, b)  # noqa: E731
    run.wrap(function)(module, jnp.ones((5, 5)), jnp.ones((10, 10)))
    assert seen == [[(5, 5), (10, 10), (8,)]]


@every_runner
def test_what_is_no_array_goes_in_and_out_as_it_is_and_has_no_gradient(run):
    class Tagged(nn.Module):
        def forward(self, tag, x):
            return x * 2, tag, jnp.arange(3)

    module, seen, tags = Tagged(), [], []
    module.register_full_backward_hook(lambda m, gi, go: seen.append((gi, go)))

    def total(m, x):
        out, tag, _ = m("text", x)
        tags.append(tag)
        return out.sum()

    np.testing.assert_array_equal(of_input(run, module, function=total), np.full((4, 3), 2.0))
    ((of_tag, of_x), (of_out, of_text, of_integers)) = seen[0]
    assert of_tag is None and of_x.shape == X.shape and of_out.shape == X.shape
    assert of_text is None and of_integers is None and tags == ["text"]


@every_runner
def test_an_output_in_a_dict_has_its_gradients_in_a_dict(run):
    # torch: warns and calls no backward hook where the output is neither a tensor nor a tuple.
    class Named(nn.Module):
        def forward(self, inputs):
            return {"y": inputs["x"] * 3}

    module, seen = Named(), []
    module.register_full_backward_pre_hook(lambda m, go: seen.append(go[0].keys()))
    module.register_full_backward_hook(lambda m, gi, go: seen.append(gi))
    grad = of_input(run, module, function=lambda m, x: m({"x": x})["y"].sum())
    np.testing.assert_array_equal(grad, np.full((4, 3), 3.0))
    assert seen == [{"y"}, (None,)]


@every_runner
def test_a_layer_with_statistics_keeps_them_under_a_backward_hook(run):
    model, plain = nn.BatchNorm1d(3), nn.BatchNorm1d(3)
    shapes = []
    model.register_full_backward_hook(lambda m, gi, go: shapes.append((gi[0].shape, go[0].shape)))

    def both(m, x):
        nn.grad(loss)(m, x)
        return m

    model, plain = run.wrap(both)(model, X), run.wrap(both)(plain, X)
    assert shapes == [((4, 3), (4, 3))]
    np.testing.assert_allclose(model.running_mean, plain.running_mean, rtol=1e-6)
    assert int(model.num_batches_tracked) == 1


@every_runner
def test_only_one_of_two_arguments_is_differentiated(run):
    module, seen = nn.L1Loss(), []
    module.register_full_backward_hook(lambda m, gi, go: seen.append(len(gi)))
    run.wrap(lambda m, a, b: nn.grad(lambda m, b: m(a, b), argnums=1)(m, b))(module, X, X + 1)
    assert seen == [2]


@every_runner
def test_a_hook_is_given_the_gradient_of_an_input_that_nobody_asked_for(run):
    # torch: None, where the input does not require a gradient; here requiring is the caller's business (argnums).
    module, seen = nn.Linear(3, 2), []
    module.register_full_backward_hook(lambda m, gi, go: seen.append((gi[0].shape, go[0].shape)))
    run.wrap(lambda m, x: nn.grad(loss)(m, x))(module, X)
    assert seen == [((4, 3), (4, 2))]


# -- what a hook gives back -----------------------------------------------------------------------------------------


@every_runner
@pytest.mark.parametrize("everywhere", [False, True], ids=["one module", "all modules"])
def test_forward_hooks_replace_input_and_output_and_gradients_follow(run, everywhere):
    module = nn.Sigmoid()
    owner = all_modules if everywhere else module
    names = ("register_module_forward_pre_hook", "register_module_forward_hook")
    before, after = names if everywhere else ("register_forward_pre_hook", "register_forward_hook")
    with (
        getattr(owner, before)(lambda m, args: jnp.maximum(args[0], 0)),  # one value needs no tuple
        getattr(owner, after)(lambda m, args, out: -out),
    ):
        np.testing.assert_allclose(run.wrap(call)(module, X), -jax.nn.sigmoid(jnp.maximum(X, 0)), rtol=1e-5)
        sigmoid = jax.nn.sigmoid(X)
        expected = -sigmoid * (1 - sigmoid) * (X > 0)
        np.testing.assert_allclose(of_input(run, module), expected, rtol=1e-4, atol=1e-6)


@every_runner
@pytest.mark.parametrize("everywhere", [False, True], ids=["one module", "all modules"])
def test_backward_hooks_replace_the_gradient_of_the_input(run, everywhere):
    module = nn.Sigmoid()
    double = lambda m, grad_input, grad_output: tuple(2 * grad for grad in grad_input)  # noqa: E731
    register = all_modules.register_module_backward_hook if everywhere else module.register_full_backward_hook
    with register(double):
        sigmoid = jax.nn.sigmoid(X)
        np.testing.assert_allclose(of_input(run, module), 2 * sigmoid * (1 - sigmoid), rtol=1e-5)


@every_runner
def test_a_pre_hooks_gradient_is_what_everything_after_it_sees(run):
    module, seen = nn.Linear(3, 2), []
    module.register_full_backward_pre_hook(lambda m, grad_output: (grad_output[0] * 0,))
    module.register_full_backward_hook(lambda m, gi, go: (gi[0] + go[0].sum() + 1,))
    grads, of_x = run.wrap(lambda m, x: nn.grad(loss, argnums=(0, 1))(m, x))(module, X)
    assert not np.any(grads["weight"]) and not seen
    np.testing.assert_array_equal(of_x, np.ones((4, 3)))


@every_runner
@pytest.mark.parametrize("kind", ["full_backward", "full_backward_pre"])
@pytest.mark.parametrize("number", [0, 2])
def test_a_wrong_number_of_gradients_is_refused(run, kind, number):
    module = nn.Sigmoid()
    getattr(module, f"register_{kind}_hook")(lambda m, *grads: (jnp.ones((2, 2)),) * number)
    with pytest.raises(RuntimeError, match=f"got {number}, but expected 1"):
        of_input(run, module)
    assert of_input(run, nn.Sigmoid()).shape == X.shape


@every_runner
def test_a_wrong_number_from_a_hook_of_all_modules_is_refused(run):
    with all_modules.register_module_full_backward_hook(lambda m, gi, go: gi[:-1]):
        with pytest.raises(RuntimeError, match="got 0, but expected 1"):
            of_input(run, nn.Sigmoid())


@every_runner
def test_None_from_a_hook_leaves_everything_as_it_was(run):
    module, plain = nn.Sigmoid(), nn.Sigmoid()
    module.register_forward_pre_hook(lambda m, args: None)
    module.register_forward_hook(lambda m, args, out: None)
    module.register_full_backward_pre_hook(lambda m, go: None)
    module.register_full_backward_hook(lambda m, gi, go: None)
    np.testing.assert_array_equal(run.wrap(call)(module, X), run.wrap(call)(plain, X))
    np.testing.assert_array_equal(of_input(run, module), of_input(run, plain))


# -- keyword arguments ----------------------------------------------------------------------------------------------


@every_runner
def test_keyword_arguments_reach_hooks_that_ask_for_them(run):
    model, shift = Shifted(), jnp.ones((4, 3))
    model.register_forward_hook(lambda m, args, kwargs, out: out + kwargs["shift"], with_kwargs=True)
    before = model.register_forward_pre_hook(
        lambda m, args, kwargs: (args, {"shift": 2 * kwargs["shift"]}), with_kwargs=True
    )
    function = run.wrap(lambda m, x, shift: m(x, shift=shift))
    np.testing.assert_allclose(function(model, X, shift), X + 4, rtol=1e-6)  # the later hook sees the new keyword
    before.remove()
    np.testing.assert_allclose(function(model, X, shift), X + 2, rtol=1e-6)


@every_runner
def test_a_method_of_the_module_may_be_its_hook(run):
    model = Shifted()
    model.register_forward_hook(model.add_again, with_kwargs=True)
    function = run.wrap(lambda m, x: m(x, shift=jnp.float32(1)))
    np.testing.assert_allclose(function(model, X), X + 2, rtol=1e-6)


@every_runner
def test_keyword_hooks_are_gone_when_their_handles_are_removed(run):
    model, seen = Shifted(), []
    handles = [
        model.register_forward_pre_hook(lambda m, args, kwargs: seen.append("before"), with_kwargs=True),
        model.register_forward_hook(lambda m, args, kwargs, out: seen.append("after"), with_kwargs=True),
        all_modules.register_module_forward_hook(lambda m, a, k, out: seen.append("all"), with_kwargs=True),
    ]
    function = run.wrap(lambda m, x: m(x, shift=jnp.float32(1)))
    function(model, X)
    assert seen == ["before", "all", "after"]
    for handle in handles:
        handle.remove()
    function(model, X)
    assert len(seen) == 3


@every_runner
def test_a_keyword_pre_hook_gives_back_both_or_nothing(run):
    model = Shifted()
    model.register_forward_pre_hook(lambda m, args, kwargs: args, with_kwargs=True)
    with pytest.raises(RuntimeError, match="new_args, new_kwargs"):
        run.wrap(call)(model, X)


# -- always_call ----------------------------------------------------------------------------------------------------


class Failing(nn.Module):
    def forward(self, x, fail=True):
        if fail:
            raise ZeroDivisionError("in forward")
        return x


@every_runner
def test_always_called_hooks_close_what_pre_hooks_open(run):
    model, log = Failing(), []
    model.register_forward_pre_hook(lambda m, args: log.append("open"))
    handle = model.register_forward_hook(lambda m, args, out: log.append("close"), always_call=True)
    with pytest.raises(ZeroDivisionError, match="in forward"):
        run.wrap(call)(model, X)
    assert log == ["open", "close"]
    run.wrap(lambda m, x: m(x, fail=False))(model, X)  # and only once where nothing fails
    assert log == ["open", "close"] * 2
    handle.remove()
    with pytest.raises(ZeroDivisionError):
        run.wrap(call)(model, X)
    assert log[-1] == "open"


@every_runner
def test_always_called_hooks_run_when_a_pre_hook_fails_and_when_another_of_them_does(run):
    model, log = Failing(), []

    def broken(m, args):
        raise KeyError("in the pre-hook")

    def also_broken(m, args, out):
        log.append("broken")
        raise ValueError("in the hook")

    model.register_forward_pre_hook(broken)
    model.register_forward_hook(lambda m, args, out: log.append("close"), always_call=True)
    model.register_forward_hook(also_broken, prepend=True, always_call=True)
    with all_modules.register_module_forward_hook(lambda m, args, out: log.append("all"), always_call=True):
        with pytest.warns(UserWarning, match="silenced"), pytest.raises(KeyError, match="in the pre-hook"):
            run.wrap(call)(model, X)
    assert log == ["all", "broken", "close"]  # the failing one once


@every_runner
def test_an_always_called_hook_that_fails_alone_is_not_run_twice(run):
    model, log = Failing(), []

    def broken(m, args, out):
        log.append("broken")
        raise ValueError("in the hook")

    model.register_forward_hook(broken, always_call=True)
    with pytest.raises(ValueError, match="in the hook"):
        run.wrap(lambda m, x: m(x, fail=False))(model, X)
    assert log == ["broken"]


# -- handles --------------------------------------------------------------------------------------------------------


@every_runner
@pytest.mark.parametrize("kind", ["forward", "forward_pre"])
def test_hooks_may_remove_themselves_while_they_run(run, kind):
    module, seen, handles = nn.Sigmoid(), [], []

    def once(m, args, *out, number):
        seen.append(number)
        handles[number].remove()

    register = getattr(module, f"register_{kind}_hook")
    handles.extend(register(functools.partial(once, number=number)) for number in range(2))
    function = run.wrap(call)
    np.testing.assert_allclose(function(module, X), jax.nn.sigmoid(X), rtol=1e-6)
    function(module, X)
    assert seen == [0, 1]


@every_runner
def test_a_hook_does_not_keep_its_module_alive(run):
    import weakref

    module = nn.Linear(3, 3)
    module.register_forward_hook(lambda m, args, out: None)
    module._register_load_state_dict_pre_hook(lambda *_: None, True)
    run.wrap(call)(module, X)
    reference = weakref.ref(module)
    gc.collect()
    del module
    gc.collect()  # torch frees by counting; a compiled function's cache may hold the copy's structure, not the module
    assert reference() is None

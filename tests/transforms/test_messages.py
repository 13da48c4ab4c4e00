"""Errors under nn.jit and its like name the user's file and arguments, and a remedy that fits the transform around."""

import inspect
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxnn as nn
import jaxnn.functional as F

x = jnp.ones((2, 4))
HERE = __file__


def branches(model, x):
    return x if model[0].weight.sum() > 0 else -x


def returns_text(model, x):
    return "text"


def takes_a_mode(model, x, mode):
    return x


@pytest.fixture
def model():
    return nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3))


def place(function):
    return f"{function.__name__} at {HERE}:{inspect.getsourcelines(function)[1]}"


@pytest.mark.parametrize("jit", [nn.jit, jax.jit], ids=["nn.jit", "jax.jit"])
def test_a_value_that_is_not_known_is_named_as_in_the_users_function(jit, model):
    with pytest.raises(jax.errors.TracerBoolConversionError) as caught:
        jit(branches)(model, x)
    assert place(branches) in str(caught.value) and "the argument model.0.weight" in str(caught.value)


def test_arguments_and_results_that_jax_does_not_take(model):
    with pytest.raises(TypeError, match=r"'str'> and was passed to the function at path mode\b"):
        nn.jit(takes_a_mode)(model, x, "train")
    with pytest.raises(TypeError, match=re.escape(place(returns_text))):
        nn.jit(returns_text)(model, x)
    with pytest.raises(ValueError, match=r"static_argnums=\(5,\), but only accepts 3 positional arguments"):
        nn.jit(takes_a_mode, static_argnums=5)
    with pytest.raises(ValueError, match="invalid argnames {'foo'}"):
        nn.jit(takes_a_mode, static_argnames="foo")


def test_a_modules_own_forward_is_named():
    class Branches(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = nn.Linear(4, 3)

        def forward(self, x):
            return x if self.fc(x).sum() > 0 else -x

    with pytest.raises(jax.errors.TracerBoolConversionError) as caught:
        nn.jit(Branches())(x)
    assert f"forward at {HERE}:" in str(caught.value) and "self.fc.weight" in str(caught.value)


def test_a_checkpointed_function_is_named(model):
    with pytest.raises(jax.errors.TracerBoolConversionError) as caught:
        nn.checkpoint(branches)(model, x)
    assert place(branches) in str(caught.value) and "the argument modules[0]" in str(caught.value)
    with pytest.raises(jax.errors.TracerBoolConversionError, match=r"the argument args\[1\]"):
        nn.checkpoint(lambda model, x: x if x.sum() > 0 else -x)(model, x)


def test_static_and_donated_arguments_by_number_and_by_name(model):
    for options in ({"static_argnums": 2}, {"static_argnames": "mode"}):
        step = nn.jit(lambda model, x, mode: x if mode == "train" else -x, **options)
        assert step(model, x, "train")[0, 0] == 1 and step(model, x, mode="eval")[0, 0] == -1
    for options in ({"donate_argnums": 0}, {"donate_argnames": "model"}):
        step = nn.jit(lambda model, x: model(x), **options)
        step(model, x)
        step(model=model, x=x)  # all of a donated module comes back, however it was passed
        assert np.isfinite(np.asarray(model[0].weight)).all() and int(model[1].num_batches_tracked) in (2, 4)


def test_functions_whose_arguments_are_not_known(model):
    assert nn.jit(lambda *args, **kwargs: kwargs["m"](*args))(x, m=model).shape == (2, 3)
    with pytest.raises(jax.errors.TracerBoolConversionError, match=r"the argument args\[1\]"):
        nn.jit(lambda *args: 1 if args[1].sum() > 0 else 2)(model, x)


WRITES = {
    "scan": (lambda m, x: jax.lax.scan(lambda c, _: (c + m(x).sum(), None), 0.0, None, length=2), "nn.scan"),
    "cond": (lambda m, x: jax.lax.cond(x.sum() > 0, lambda: m(x), lambda: m(x)), "self.name = jax.lax.cond(...)"),
    "switch": (lambda m, x: jax.lax.switch(x.sum().astype(int), [lambda: m(x)] * 2), "jax.lax.switch(...)"),
    "while_loop": (lambda m, x: jax.lax.while_loop(lambda c: c < 3, lambda c: c + m(x).sum(), 0.0), "Carry the value"),
    "fori_loop": (lambda m, x: jax.lax.fori_loop(0, 2, lambda _, c: c + m(x).sum(), 0.0), "nn.scan"),
    "checkpoint": (lambda m, x: jax.checkpoint(lambda x: m(x))(x), "nn.checkpoint"),
    "grad": (lambda m, x: jax.grad(lambda x: setattr(m[0], "bias", x[0, :3]) or m(x).sum())(x), "nn.value_and_grad"),
    "vmap": (lambda m, x: jax.vmap(lambda x: m(x))(x[None]), "nn.vmap"),
    "jit": (lambda m, x: jax.jit(lambda x: m(x))(x), "a function compiled by nn.jit"),
}


@pytest.mark.parametrize("kind", WRITES)
@pytest.mark.parametrize("outer", ["nn.jit", "eager"])
def test_a_write_inside_a_transform_says_what_fits_there(kind, outer, model):
    run, remedy = WRITES[kind]
    with pytest.raises(nn.TraceLeakError) as caught:
        (nn.jit(run) if outer == "nn.jit" else run)(model, x)
    text = str(caught.value)
    assert remedy in text and f" for {kind}" in text and f"{'bias' if kind == 'grad' else 'running_mean'}:" in text
    assert kind in ("grad", "vmap") or HERE in text
    assert int(model[1].num_batches_tracked) == 0


DRAWS = {
    "scan": (lambda d, x: jax.lax.scan(lambda c, _: (d(c), None), x, None, length=2), "Use nn.scan"),
    "cond": (lambda d, x: jax.lax.cond(x.sum() > 0, lambda: d(x), lambda: d(x)), "key = nn.next_key()"),
    "checkpoint": (lambda d, x: jax.checkpoint(lambda x: d(x))(x), "Use nn.checkpoint"),
    "fori_loop": (lambda d, x: jax.lax.fori_loop(0, 2, lambda _, c: d(c), x), "keys[i]"),
    "jit": (lambda d, x: jax.jit(lambda d, x: d(x))(d, x), "Compile with nn.jit"),
}


@pytest.mark.parametrize("kind", DRAWS)
def test_a_draw_inside_a_plain_transform_says_what_fits_there(kind):
    run, remedy = DRAWS[kind]
    with pytest.raises(RuntimeError, match="inside a plain jax transform") as caught:
        (run if kind == "jit" else nn.jit(run))(nn.Dropout(), x)
    assert remedy in str(caught.value) and "Drawn here" in str(caught.value)


def test_no_message_about_arguments_names_a_private_function():
    """Python's own: an unknown keyword, too many arguments, too few, of every public function and class."""
    modules = [nn, F, nn.init, nn.optim, nn.optim.lr_scheduler, nn.optim.swa_utils, nn.utils, nn.parallel, nn.attention]
    modules += [getattr(nn.utils, name) for name in ("parametrizations", "parametrize", "prune", "rnn", "stateless")]
    tried, private = 0, []
    for module in modules:
        for name in sorted(vars(module)):
            function = getattr(module, name)
            if name.startswith("_") or not callable(function):
                continue
            if not getattr(function, "__module__", "").startswith("jaxnn"):
                continue
            for args, kwargs in (((), {"unheard_of": 1}), ((x,) * 30, {}), ((), {})):
                try:
                    function(*args, **kwargs)
                except TypeError as error:
                    tried += 1
                    if re.search(r"(^|[ .])_[a-zA-Z]\w*(\.__init__|\.__new__)?\(\) (got|takes|missing)", str(error)):
                        private.append(f"{module.__name__}.{name}: {error}")
                except Exception:  # what the function checks itself
                    pass
    assert private == [] and tried > 800

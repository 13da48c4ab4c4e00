"""What nn.export refuses: which argument, what it got, what it takes."""

import jax.numpy as jnp
import pytest

import jaxnn as nn

X = jnp.ones((2, 4))


@pytest.fixture(scope="module")
def program():
    return nn.export.export(nn.Linear(4, 4).eval(), (X,))


@pytest.mark.parametrize(
    "call, error, text",
    [
        (
            lambda p: nn.export.export(nn.Linear, (X,)),
            TypeError,
            "mod: expected a module or a function, .*Make one: Linear",
        ),
        (lambda p: nn.export.export(nn.Linear(4, 4), (X,), 3), TypeError, "kwargs: expected a dict"),
        (lambda p: nn.export.export(nn.Linear(4, 4), (), {3: X}), TypeError, "kwargs: expected a dict"),
        (lambda p: nn.export.export(nn.Linear(4, 4), (X,), platforms=3), TypeError, "platforms: expected some of cpu"),
        (lambda p: nn.export.Dim("a", min="x"), TypeError, "Dim: min: expected an int"),
        (lambda p: nn.export.Dim("a", max=-1), ValueError, "Dim: max: expected a size of at least 0"),
        (lambda p: nn.export.plain(3), TypeError, "plain: fun: expected a function"),
        (lambda p: nn.export.save(p, 3), TypeError, "save: path: expected the path of a file"),
        (lambda p: nn.export.save(p, ""), IsADirectoryError, "save: path: .* got the folder"),
        (lambda p: nn.export.save(p, "."), IsADirectoryError, "save: path: .* got the folder"),
        (lambda p: nn.export.load(3), TypeError, "load: path: expected the path of a file"),
        (lambda p: nn.export.load("."), IsADirectoryError, "load: path: .* got the folder"),
    ],
)
def test_refused(program, call, error, text):
    with pytest.raises(error, match=text):
        call(program)

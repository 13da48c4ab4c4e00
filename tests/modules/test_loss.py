"""The classes of losses: options, buffers, repr, errors; the maths is tested with the functions."""

import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxnn.modules.loss as losses
from jaxnn.modules import AdaptiveLogSoftmaxWithLoss

NAMES = [name for name in dir(losses) if name.endswith(("Loss", "Loss2d")) and name[0] != "_"]


def draw(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def build(home, name, **kwargs):
    arguments = {"LinearCrossEntropyLoss": (4, 3)}.get(name, ())
    return getattr(home, name)(*arguments, **kwargs)


@pytest.mark.filterwarnings("ignore:.*NLLLoss2d.*:FutureWarning")
def test_same_as_torch_in_name_signature_attributes_and_repr():
    torch = pytest.importorskip("torch")
    assert set(NAMES) == set(torch.nn.modules.loss.__all__)
    for name in NAMES:
        like = "NLLLoss" if name == "NLLLoss2d" else name  # torch's deprecation hides the signature
        ours, theirs = inspect.signature(getattr(losses, name)), inspect.signature(getattr(torch.nn, like))
        assert list(ours.parameters) == list(theirs.parameters), name
        for argument in ours.parameters:
            assert ours.parameters[argument].default == theirs.parameters[argument].default, (name, argument)
        mine, its = build(losses, name), build(torch.nn, name)
        assert repr(mine) == repr(its)
        assert getattr(mine, "__constants__", []) == getattr(its, "__constants__", []), name
        for key, value in vars(its).items():
            if not key.startswith("_") and isinstance(value, (int, float, str, bool, tuple)):
                assert getattr(mine, key) == value, (name, key)


def test_weights_are_buffers():
    weight = jnp.arange(3.0)
    for name in ("CrossEntropyLoss", "NLLLoss", "BCELoss", "MultiMarginLoss", "MultiLabelSoftMarginLoss"):
        module = getattr(losses, name)(weight=weight)
        assert list(module.state_dict()) == ["weight"] and not list(module.parameters())
        assert not getattr(losses, name)().state_dict()
    assert list(losses.BCEWithLogitsLoss(weight, pos_weight=weight).state_dict()) == ["weight", "pos_weight"]
    module = losses.CrossEntropyLoss(weight)
    scores, classes = jnp.asarray(draw(2, 3)), jnp.array([0, 2])
    np.testing.assert_allclose(jax.jit(lambda m, x: m(x, classes))(module, scores), module(scores, classes), rtol=1e-6)


def test_deprecated_names_and_flags():
    with pytest.warns(UserWarning, match="reduction='sum'"):
        assert losses.MSELoss(size_average=False).reduction == "sum"
    with pytest.warns(UserWarning, match="reduction='none'"):
        assert losses.CrossEntropyLoss(reduce=False).reduction == "none"
    with pytest.warns(FutureWarning, match="NLLLoss") as record:
        losses.NLLLoss2d()
    assert record[0].filename == __file__


def test_wrong_options():
    with pytest.raises(TypeError, match="delta"):
        losses.HuberLoss(delta="1")
    for call in (
        lambda: losses.MultiMarginLoss(p=3),
        lambda: losses.MultiMarginLoss(weight=jnp.ones((2, 2))),
        lambda: losses.TripletMarginLoss(margin=0),
        lambda: losses.TripletMarginWithDistanceLoss(margin=-1),
        lambda: losses.MSELoss(reduction="average")(jnp.ones(2), jnp.ones(2)),
    ):
        with pytest.raises(ValueError):
            call()
    for kwargs in ({"weight": jnp.ones(2)}, {"label_smoothing": 1.5}):
        with pytest.raises(RuntimeError):
            losses.LinearCrossEntropyLoss(4, 3, **kwargs)


def test_distance_may_be_a_module_with_parameters():
    from jaxnn.boxes.parameter import Parameter
    from jaxnn.core.module import Module

    class Scaled(Module):
        def __init__(self):
            super().__init__()
            self.scale = Parameter(jnp.ones(3))

        def forward(self, x, y):
            return jnp.abs((x - y) * self.scale).sum(-1)

    module = losses.TripletMarginWithDistanceLoss(distance_function=Scaled())
    assert [name for name, _ in module.named_parameters()] == ["distance_function.scale"]
    x, y, z = (jnp.asarray(draw(4, 3, seed=i)) for i in range(3))
    grads = jax.grad(lambda m: m(x, y, z))(module)
    assert float(jnp.abs(grads.distance_function.scale).sum()) > 0


class TestAdaptive:
    cutoffs = (4, 10)

    def pair(self, torch, **kwargs):
        import jaxnn as nn

        nn.manual_seed(3)
        torch.manual_seed(3)
        return AdaptiveLogSoftmaxWithLoss(16, 20, [*self.cutoffs], **kwargs), torch.nn.AdaptiveLogSoftmaxWithLoss(
            16, 20, [*self.cutoffs], **kwargs
        )

    @pytest.mark.parametrize("kwargs", [{}, {"div_value": 2.0, "head_bias": True}])
    def test_like_torch(self, kwargs):
        torch = pytest.importorskip("torch")
        ours, theirs = self.pair(torch, **kwargs)
        assert repr(ours) == repr(theirs)
        for (name, array), (key, tensor) in zip(ours.state_dict().items(), theirs.state_dict().items()):
            assert name == key
            np.testing.assert_array_equal(array, tensor.numpy())
        x, y = 3 * draw(7, 16), np.array([0, 3, 4, 9, 10, 19, 1])
        mine, its = ours(jnp.asarray(x), jnp.asarray(y)), theirs(torch.from_numpy(x), torch.from_numpy(y))
        assert mine._fields == its._fields
        np.testing.assert_allclose(mine.output, its.output.detach(), rtol=1e-5)
        np.testing.assert_allclose(mine.loss, its.loss.detach(), rtol=1e-5)
        np.testing.assert_allclose(ours.log_prob(x), theirs.log_prob(torch.from_numpy(x)).detach(), rtol=1e-5)
        np.testing.assert_array_equal(ours.predict(x), theirs.predict(torch.from_numpy(x)))
        its.loss.backward()
        grads = jax.grad(lambda m: m(jnp.asarray(x), jnp.asarray(y)).loss)(ours)
        for (_, grad), (_, parameter) in zip(grads.named_parameters(), theirs.named_parameters()):
            np.testing.assert_allclose(grad.data, parameter.grad, rtol=1e-4, atol=1e-6)

    def test_one_sample_and_bad_targets(self):
        module = AdaptiveLogSoftmaxWithLoss(16, 20, self.cutoffs)
        x, y = jnp.asarray(draw(2, 16)), jnp.array([5, 20])
        assert module(x[0], y[0]).output.shape == ()
        with pytest.raises(RuntimeError, match="target"):
            module(x, y)
        output = jax.jit(lambda m, x, y: m(x, y).output)(module, x, y)
        assert jnp.isfinite(output[0]) and jnp.isnan(output[1])
        for bad_x, bad_y in [(x, y[:1]), (x[0], y), (x, y[0]), (x, y[None])]:
            with pytest.raises(RuntimeError):
                module(bad_x, bad_y)

    @pytest.mark.parametrize("cutoffs", [[], [5, 3], [0, 4], [4, 20], [4, 4], [2.5]])
    def test_bad_cutoffs(self, cutoffs):
        with pytest.raises(ValueError, match="cutoffs"):
            AdaptiveLogSoftmaxWithLoss(8, 20, cutoffs)

    def test_cutoffs_that_are_floats(self):
        """In torch a TypeError as well."""
        for cutoffs in ([5.0, 10.0], [5, np.float64(10)]):
            with pytest.raises(TypeError, match="AdaptiveLogSoftmaxWithLoss: cutoffs: expected an int, got"):
                AdaptiveLogSoftmaxWithLoss(16, 20, cutoffs)
        assert AdaptiveLogSoftmaxWithLoss(16, 20, [np.int64(5), 10]).cutoffs == [5, 10, 20]

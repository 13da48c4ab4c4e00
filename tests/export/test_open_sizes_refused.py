"""What an export says where a size that is left open, or a forgotten eval(), stands in its way."""

import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxnn as nn

IMAGES = np.random.default_rng(0).standard_normal((4, 2, 16, 16)).astype("float32")
ROWS = np.ones((4, 3), np.float32)


def _open_rows():
    return jax.ShapeDtypeStruct((*jax.export.symbolic_shape("b"), 3), jnp.float32)


def test_a_batch_norm_in_training_asks_for_eval_or_two_rows():
    says = r"batch_norm: input.*eval\(\).*min=2.*b(atch)? >= 2"
    with pytest.raises(jax.errors.InconclusiveDimensionOperation, match=says):
        nn.export.export(nn.BatchNorm1d(3), (ROWS,), dynamic_shapes=({0: "b"},))
    with pytest.raises(jax.errors.InconclusiveDimensionOperation, match=says):
        jax.export.export(jax.jit(lambda m, x: (m, m(x))))(nn.BatchNorm1d(3), _open_rows())
    with pytest.warns(UserWarning, match="training mode"):
        nn.export.export(nn.BatchNorm1d(3), (ROWS,), dynamic_shapes=({0: nn.export.Dim("b", min=2)},))


def test_a_closure_in_training_is_told_of_eval():
    norm = nn.BatchNorm1d(3)
    with pytest.raises(nn.TraceLeakError, match=r"running_mean.*put it into eval\(\) first"):
        jax.export.export(jax.jit(lambda x: norm(x)))(ROWS)

    class Plain(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(jnp.ones(3))

        def forward(self, x):
            self.weight = x
            return x

    plain = Plain()
    with pytest.raises(nn.TraceLeakError, match=r"weight") as found:
        jax.jit(lambda x: plain(x))(ROWS[0])
    assert "eval()" not in str(found.value)


def test_exporting_training_warns_where_statistics_change_and_only_there():
    norm, scale = nn.BatchNorm2d(2), nn.Sequential(nn.Conv2d(2, 2, 3), nn.GroupNorm(1, 2))
    with pytest.warns(UserWarning, match=r"training mode.*running_mean, running_var, num_batches_tracked\. ") as found:
        nn.export.export(norm, (IMAGES,), platforms="cpu")
    assert found[0].filename == __file__
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        nn.export.export(norm.eval(), (IMAGES,), platforms="cpu")
        nn.export.export(scale, (IMAGES,), platforms="cpu")


@pytest.mark.parametrize("layer", [nn.MaxPool2d(2), nn.AvgPool2d(2), nn.LPPool2d(2, 2)], ids=lambda m: type(m).__name__)
def test_pooling_over_an_open_size_is_refused_in_words(layer):
    for size in ("h", nn.export.Dim("h", min=8)):
        with pytest.raises(RuntimeError, match=r"pool2d: input.*\(4, 2, h, 16\).*Leave the batch open"):
            nn.export.export(layer, (IMAGES,), dynamic_shapes=({2: size},))
    nn.export.export(layer, (IMAGES,), dynamic_shapes=({0: "n"},), platforms="cpu")


@pytest.mark.parametrize("layer", [nn.Unfold(2), nn.ConvTranspose2d(2, 2, 3)], ids=lambda m: type(m).__name__)
def test_an_open_height_beside_a_fixed_width(layer):
    program = nn.export.export(layer, (IMAGES,), dynamic_shapes=({2: nn.export.Dim("h", min=8)},), platforms="cpu")
    for height in (8, 16):
        image = IMAGES[:, :, :height]
        np.testing.assert_allclose(program(image), layer(jnp.asarray(image)), rtol=1e-5, atol=1e-6)


def test_other_comparisons_have_a_note():
    with pytest.raises(jax.errors.InconclusiveDimensionOperation) as found:
        nn.export.export(nn.Conv2d(2, 2, 3), (IMAGES,), dynamic_shapes=({2: "h"},))
    assert any('nn.export.Dim("name", min=...)' in note for note in found.value.__notes__)


_PLACES = [
    nn.ReflectionPad2d(1),
    nn.ReplicationPad2d(1),
    nn.CircularPad2d(1),
    nn.Conv2d(2, 2, 3, padding=1, padding_mode="reflect"),
    nn.Upsample(scale_factor=2),
    nn.Upsample(size=(8, 8), mode="bilinear"),
    nn.Upsample(scale_factor=2, mode="area"),
    nn.AdaptiveAvgPool2d(3),
    nn.AdaptiveMaxPool2d((3, None)),
    nn.AdaptiveMaxPool2d(1),
]


@pytest.mark.parametrize("layer", _PLACES, ids=str)
def test_layers_that_compute_places_refuse_an_open_size_in_words(layer):
    with pytest.raises(RuntimeError, match=r"input: expected an export whose.*\(4, 2, h, 16\).*Leave the batch open"):
        nn.export.export(layer, (IMAGES,), dynamic_shapes=({2: nn.export.Dim("h", min=8)},))


@pytest.mark.parametrize(
    "layer",
    [nn.AdaptiveAvgPool2d(1), nn.ReflectionPad2d((1, 1, 0, 0)), nn.ZeroPad2d(1)],
    ids=str,
)
def test_an_open_size_that_is_left_alone_is_none_of_their_business(layer):
    program = nn.export.export(layer, (IMAGES,), dynamic_shapes=({2: nn.export.Dim("h", min=8)},), platforms="cpu")
    for height in (8, 16):
        image = IMAGES[:, :, :height]
        np.testing.assert_allclose(program(image), layer(jnp.asarray(image)), rtol=1e-5, atol=1e-6)

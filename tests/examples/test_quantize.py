"""examples/quantize.py: what is rounded, what the layer computes, and the swap in a model."""

import sys
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

import jaxnn as nn
import jaxnn.functional as F

sys.path.insert(0, str(Path(__file__).parents[2] / "examples"))

from models.llama import LlamaForCausalLM  # noqa: E402
from models.llama_config import LlamaConfig  # noqa: E402
from quantize import FEW_ROWS, LANES, QuantizedLinear, quantize_linear  # noqa: E402

from tests.examples.record_llama import SMALL  # noqa: E402


@pytest.mark.parametrize(
    ("inputs", "group_size", "bits"),
    [(40, None, 8), (40, 8, 8), (128, None, 8), (128, 32, 8), (128, 64, 4), (128, 16, 4)],
)
@pytest.mark.parametrize("bias", [True, False])
def test_a_layer(inputs, group_size, bits, bias):
    linear = nn.Linear(inputs, 12, bias=bias)
    layer = QuantizedLinear(linear, group_size, bits)
    weight, found = np.asarray(linear.weight), np.asarray(layer.dequantized())
    groups = 1 if group_size is None else inputs // group_size
    scale = np.repeat(np.asarray(layer.weight_scale), inputs // groups, axis=1)
    assert layer.weight.dtype == jnp.int8 and layer.weight_scale.shape == (12, groups)
    assert layer.weight.nbytes == 12 * inputs * bits // 8
    assert np.abs(found - weight).max() > 0 and (np.abs(found - weight) <= scale / 2 * (1 + 1e-5)).all()
    if bits == 8:
        assert (np.abs(np.round(found / scale)).reshape(12, groups, -1).max(-1) == 127).all()  # the whole range is used
    else:
        ends = [[w.reshape(12, groups, -1).min(-1), w.reshape(12, groups, -1).max(-1)] for w in (found, weight)]
        np.testing.assert_allclose(*ends, rtol=1e-5, atol=1e-6)
    x = np.random.RandomState(0).randn(3, FEW_ROWS, inputs).astype(np.float32)
    expected = F.linear(x, found, linear.bias)
    for rows in (x, x[0], x[0, :1], x[0, 0]):
        got = layer(rows)
        assert got.shape == (*rows.shape[:-1], 12)
        np.testing.assert_allclose(got, F.linear(rows, found, linear.bias), rtol=1e-5, atol=1e-5)
    low = layer(x[0].astype(jnp.bfloat16))
    assert low.dtype == jnp.bfloat16
    np.testing.assert_allclose(low.astype(np.float32), expected[0], atol=0.05)
    names = {"weight", "weight_scale"} | ({"bias"} if bias else set()) | ({"weight_offset"} if bits == 4 else set())
    assert set(layer.state_dict()) == names


def test_a_row_reads_the_rounded_weights():
    """Nothing of the size of the weights is written, as a copy of them in float32 would be."""
    layer = QuantizedLinear(nn.Linear(16 * LANES, 256, bias=False))
    program = nn.jit(lambda layer, x: layer(x)).lower(layer, jnp.ones((1, 16 * LANES))).compile()
    assert program.memory_analysis().temp_size_in_bytes < layer.weight.nbytes


def test_zeros_stay_zeros():
    linear = nn.Linear(4, 2)
    linear.weight = jnp.zeros((2, 4)).at[0].set(3.0)
    np.testing.assert_array_equal(QuantizedLinear(linear).dequantized(), np.asarray(linear.weight))
    with pytest.raises(ValueError, match="group_size: expected a divisor of 4, got 3"):
        QuantizedLinear(linear, 3)
    with pytest.raises(ValueError, match="bits: expected 4 or 8, got 2"):
        QuantizedLinear(linear, bits=2)
    with pytest.raises(ValueError, match="expected a multiple of 64 inputs, got 4"):
        QuantizedLinear(linear, bits=4)


def test_a_model():
    model = LlamaForCausalLM(LlamaConfig.from_dict(SMALL | {"tie_word_embeddings": True})).eval()
    forward = nn.jit(lambda model, ids: model(ids))
    ids = np.random.RandomState(1).randint(0, 50, (2, 9))
    before, table = np.asarray(forward(model, ids)), np.asarray(model.model.embed_tokens.weight)
    names = quantize_linear(model, 16, lambda name, layer: not name.endswith("down_proj"))
    assert len(names) == 6 * 2 + 1 and "lm_head" in names and type(model.model.layers[1].mlp.down_proj) is nn.Linear
    after = np.asarray(forward(model, ids))
    np.testing.assert_array_equal(model.model.embed_tokens.weight, table)
    error = np.abs(after - before).max() / np.abs(before).max()
    assert 0 < error < 0.1
    assert model.lm_head.state_dict().keys() == {"weight", "weight_scale"}
    assert not {name for name, _ in model.lm_head.named_parameters()}

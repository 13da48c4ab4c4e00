"""examples/models/llama.py against transformers (recorded): names, and logits of every family and scaling of positions."""

import dataclasses
import json
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxnn as nn

sys.path.insert(0, str(Path(__file__).parents[2] / "examples"))

from models.llama import LlamaForCausalLM, StaticCache  # noqa: E402
from models.llama_config import LlamaConfig, RopeParameters  # noqa: E402
from models.rope import LlamaRotaryEmbedding  # noqa: E402

from parity import compare  # noqa: E402
from tests.examples.record_llama import FAMILIES, LLAMA3, OLD, RECORDED, SMALL, tokens, weights  # noqa: E402

RECORDING = np.load(RECORDED)
FORWARD = nn.jit(lambda model, *args: model(*args), compiler_options={"xla_backend_optimization_level": 0})


def recorded(name):
    """Our model of a family, with the weights of the recording."""
    model = LlamaForCausalLM(LlamaConfig.from_dict(json.loads(str(RECORDING[f"{name}/config"]))))
    model.load_state_dict(weights(json.loads(str(RECORDING[f"{name}/shapes"]))))
    return model.eval()


def held(logits, name):
    """Our logits, held next to transformers' in float32 and in float64."""
    low, true = RECORDING[f"{name}/float32"], RECORDING[f"{name}/float64"]
    tensor = compare.judge("logits", np.asarray(logits), true, low, "float32", compare.NOISE * np.abs(true).max())
    assert tensor.held, (tensor.ours, tensor.theirs)


def original(name):
    """transformers' model of a family, with the same weights."""
    transformers = pytest.importorskip("transformers", reason="the original: pip install transformers")
    import torch

    family, options, _ = FAMILIES[name]
    config = getattr(transformers, f"{family}Config")(**SMALL | options)
    model = getattr(transformers, f"{family}ForCausalLM")(config).eval()
    shapes = json.loads(str(RECORDING[f"{name}/shapes"]))
    model.load_state_dict({key: torch.tensor(value) for key, value in weights(shapes).items()})
    return model


@pytest.mark.parametrize("name", FAMILIES)
def test_logits_and_names_are_transformers(name):
    model = recorded(name)
    shapes = json.loads(str(RECORDING[f"{name}/shapes"]))
    assert {key: list(value.shape) for key, value in model.state_dict().items()} == shapes
    held(FORWARD(model, tokens(FAMILIES[name][2])), name)


@pytest.mark.parametrize("name", [name for name in FAMILIES if FAMILIES[name][1].get("rope_parameters")])
def test_every_scaling_changes_the_logits(name):
    """Or else the test above would hold without it."""
    model = recorded(name)
    plain = dataclasses.replace(model.config, rope_parameters=RopeParameters())
    model.model.rotary_emb = LlamaRotaryEmbedding(plain)
    with pytest.raises(AssertionError):
        held(FORWARD(model, tokens(FAMILIES[name][2])), name)


def test_padded_texts():
    """Padding before or behind a text changes none of its logits, nor does reading it piece by piece into a cache."""
    nn.manual_seed(0)
    model = LlamaForCausalLM(
        LlamaConfig.from_dict({"model_type": "mistral", "sliding_window": 4, "initializer_range": 0.3, **SMALL})
    ).eval()
    ids = np.random.RandomState(1).randint(1, 50, (1, 7))
    alone = FORWARD(model, ids)[0]
    batch, mask = np.zeros((2, 10), int), np.zeros((2, 10), int)
    batch[0, 3:], mask[0, 3:], batch[1, :7], mask[1, :7] = ids, 1, ids, 1
    out = FORWARD(model, batch, mask)
    np.testing.assert_allclose(out[0, 3:], alone, atol=2e-5)
    np.testing.assert_allclose(out[1, :7], alone, atol=2e-5)
    cache = StaticCache(model.config, 2, 16)
    filled = FORWARD(model, batch, mask, None, cache)
    np.testing.assert_allclose(filled[0, 3:], alone, atol=2e-5)
    np.testing.assert_allclose(filled[1, :7], alone, atol=2e-5)
    more = np.random.RandomState(2).randint(1, 50, (2, 3))
    following = FORWARD(model, more, np.ones((2, 3), int), None, cache)
    for row in range(2):
        whole = FORWARD(model, np.concatenate([ids, more[row : row + 1]], axis=1))[0]
        np.testing.assert_allclose(following[row], whole[7:], atol=2e-5)
    assert int(cache.length) == 13 and cache.positions[0, :4].tolist() == [-1, -1, -1, 0]


def test_padding_behind_is_overwritten():
    model = LlamaForCausalLM(LlamaConfig.from_dict(SMALL | {"initializer_range": 0.3})).eval()
    cache = StaticCache(model.config, 1, 16)
    ids = np.random.RandomState(1).randint(1, 50, (1, 8))
    FORWARD(model, ids, np.arange(8)[None] < 5, None, cache)
    assert int(cache.length) == 5
    out = FORWARD(model, ids, np.arange(8)[None] < 2, None, cache)
    assert int(cache.length) == 7 and cache.positions[0, :9].tolist() == [0, 1, 2, 3, 4, 5, 6, -1, -1]
    whole = FORWARD(model, np.concatenate([ids[:, :5], ids[:, :2]], axis=1))
    np.testing.assert_allclose(out[0, :2], whole[0, 5:], atol=2e-5)


@pytest.mark.parametrize("name", ["llama 3", "qwen2"])
def test_a_folder_of_the_hub_in_parts(name, tmp_path):
    config = str(RECORDING[f"{name}/config"])
    (tmp_path / "config.json").write_text(config)
    arrays = weights(json.loads(str(RECORDING[f"{name}/shapes"])))
    if json.loads(config)["tie_word_embeddings"]:
        del arrays["lm_head.weight"]  # the hub's files have one of the two
    places = {key: f"model-0000{at % 2 + 1}-of-00002.safetensors" for at, key in enumerate(arrays)}
    for file in set(places.values()):
        nn.save({key: array for key, array in arrays.items() if places[key] == file}, tmp_path / file)
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": places}))
    model = LlamaForCausalLM.from_pretrained(tmp_path)
    held(FORWARD(model, tokens(12)), name)
    assert LlamaForCausalLM.from_pretrained(tmp_path, jnp.bfloat16).model.norm.weight.dtype == jnp.bfloat16
    fresh = jax.eval_shape(lambda: LlamaForCausalLM.from_config(tmp_path / "config.json"))
    assert fresh.state_dict().keys() == model.state_dict().keys()


@pytest.mark.parametrize("kind", OLD)
def test_a_configuration_of_transformers_4(kind):
    old = LlamaConfig.from_dict({"model_type": kind, **SMALL, **OLD[kind]})
    assert old == LlamaConfig.from_dict(json.loads(str(RECORDING[f"old {kind}"])))


def test_what_is_not_known_is_refused():
    with pytest.raises(ValueError, match="model_type: expected one of llama, mistral, qwen2, qwen3, got 'gpt2'"):
        LlamaConfig.from_dict({"model_type": "gpt2"})
    with pytest.raises(ValueError, match="expected a rope_type of default, .*, got 'mystic'"):
        LlamaConfig.from_dict({"rope_scaling": {"type": "mystic"}})


def test_from_gguf(tmp_path):
    """A Llama 3 in llama.cpp's form: rows of q and k permuted, frequencies as an array, no head where it is tied."""
    gguf = pytest.importorskip("gguf", reason='writes the file: pip install "jaxnn-torch[gguf]"')
    nn.manual_seed(0)
    rope = {"rope_theta": 500000.0, **LLAMA3}
    model = LlamaForCausalLM(LlamaConfig.from_dict({**SMALL, "tie_word_embeddings": True, "rope_parameters": rope}))
    plain = np.float32(1) / (rope["rope_theta"] ** (np.arange(0, 8, 2) / 8)).astype(np.float32)
    writer = gguf.GGUFWriter(tmp_path / "x.gguf", "llama")
    writer.add_context_length(16)
    writer.add_embedding_length(32)
    writer.add_block_count(2)
    writer.add_feed_forward_length(48)
    writer.add_head_count(4)
    writer.add_head_count_kv(2)
    writer.add_rope_freq_base(rope["rope_theta"])
    writer.add_layer_norm_rms_eps(1e-6)
    writer.add_vocab_size(50)
    writer.add_tensor("rope_freqs.weight", plain / np.asarray(model.model.rotary_emb.inv_freq))
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, 2)
    for name, array in model.state_dict().items():
        array = np.asarray(array)
        for part, heads in (("q_proj", 4), ("k_proj", 2)):
            if part in name:
                array = array.reshape(heads, 2, -1, 32).swapaxes(1, 2).reshape(array.shape)
        if name != "lm_head.weight":
            writer.add_tensor(names.get_name(name, (".weight",)), array)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    read = LlamaForCausalLM.from_pretrained(tmp_path / "x.gguf")
    assert read.lm_head.weight is read.model.embed_tokens.weight
    ids = np.random.RandomState(1).randint(0, 50, (1, 9))
    np.testing.assert_allclose(FORWARD(read, ids), FORWARD(model.eval(), ids), atol=2e-5)

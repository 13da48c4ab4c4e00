"""examples/models/llama.py against transformers: names, and logits of every family and every scaling of positions."""

import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxnn as nn

sys.path.insert(0, str(Path(__file__).parents[2] / "examples"))

from models.llama import LlamaForCausalLM, StaticCache  # noqa: E402
from models.llama_config import LlamaConfig  # noqa: E402

SMALL = {
    "vocab_size": 50,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 16,
    "pad_token_id": None,
    "initializer_range": 0.3,
}
TURNS = {"original_max_position_embeddings": 16, "rope_theta": 10000.0}
LONG = {"rope_type": "longrope", "short_factor": [1.0, 1.1, 1.3, 1.7], "long_factor": [1.0, 2.0, 3.0, 4.0]}
LLAMA3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0} | TURNS
YARN = {"rope_type": "yarn", "factor": 4.0}
# Class of transformers, its options, and the number of tokens; more than 16 are longer than the training's texts.
FAMILIES = {
    "llama 2": ("Llama", {}, 12),
    "llama 3": ("Llama", {"tie_word_embeddings": True, "rope_parameters": LLAMA3}, 12),
    "llama with biases": ("Llama", {"attention_bias": True, "mlp_bias": True, "head_dim": 12}, 12),
    "mistral": ("Mistral", {"sliding_window": 5, "rope_parameters": {"rope_type": "default", "rope_theta": 1e6}}, 12),
    "qwen2": ("Qwen2", {"use_sliding_window": True, "sliding_window": 5, "max_window_layers": 1}, 12),
    "qwen3": ("Qwen3", {"head_dim": 16, "tie_word_embeddings": True}, 12),
    "linear": ("Llama", {"rope_parameters": {"rope_type": "linear", "factor": 4.0, "rope_theta": 500.0}}, 12),
    "dynamic": ("Llama", {"rope_parameters": {"rope_type": "dynamic", "factor": 4.0, "rope_theta": 500.0}}, 24),
    "yarn": ("Qwen3", {"head_dim": 16, "rope_parameters": YARN | TURNS}, 24),
    "yarn, scaled": ("Llama", {"rope_parameters": YARN | {"mscale": 0.7, "mscale_all_dim": 1.5, "truncate": False}}, 9),
    "longrope, short": ("Llama", {"rope_parameters": LONG | {"factor": 4.0} | TURNS}, 12),
    "longrope, long": ("Llama", {"rope_parameters": LONG | TURNS, "max_position_embeddings": 64}, 24),
    "proportional": ("Llama", {"rope_parameters": {"rope_type": "proportional", "partial_rotary_factor": 0.5}}, 12),
}
FORWARD = nn.jit(lambda model, *args: model(*args), compiler_options={"xla_backend_optimization_level": 0})


def original(name):
    """transformers' model of a family, with random weights of which none is 0 or 1."""
    transformers = pytest.importorskip("transformers", reason="the original: pip install --no-deps transformers")
    import torch

    torch.manual_seed(0)
    family, options, _ = FAMILIES[name]
    config = getattr(transformers, f"{family}Config")(**SMALL | options)
    model = getattr(transformers, f"{family}ForCausalLM")(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.1 * torch.rand_like(parameter)
    return model


def ours_of(theirs):
    model = LlamaForCausalLM(LlamaConfig.from_dict(theirs.config.to_dict()))
    model.load_state_dict({key: value.numpy() for key, value in theirs.state_dict().items()})
    return model.eval()


def held(ours, theirs, *arrays, **options):
    """Our logits, held next to transformers' in float32 and in float64."""
    import torch

    from parity import compare

    tensors = [torch.from_numpy(np.asarray(array)) for array in arrays]
    with torch.no_grad():
        low = theirs(*tensors, **options).logits.numpy()
        theirs.double()
        true = theirs(*tensors, **options).logits.numpy()
        theirs.float()
    tensor = compare.judge("logits", np.asarray(ours), true, low, "float32", compare.NOISE * np.abs(true).max())
    assert tensor.held, (tensor.ours, tensor.theirs)


@pytest.mark.parametrize("name", FAMILIES)
def test_logits_and_names_are_transformers(name):
    theirs = original(name)
    ids = np.random.RandomState(1).randint(0, 50, (2, FAMILIES[name][2]))
    ours = ours_of(theirs)
    assert {key: tuple(value.shape) for key, value in ours.state_dict().items()} == {
        key: tuple(value.shape) for key, value in theirs.state_dict().items()
    }
    held(FORWARD(ours, ids), theirs, ids)


def test_padded_texts():
    """Padding before or behind a text changes none of its logits, nor does reading it piece by piece into a cache."""
    nn.manual_seed(0)
    model = LlamaForCausalLM(LlamaConfig.from_dict({"model_type": "mistral", "sliding_window": 4, **SMALL})).eval()
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
    model = LlamaForCausalLM(LlamaConfig.from_dict(SMALL)).eval()
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
    theirs = original(name)
    theirs.save_pretrained(tmp_path, max_shard_size="20KB")
    assert (tmp_path / "model.safetensors.index.json").exists()
    model = LlamaForCausalLM.from_pretrained(tmp_path)
    ids = np.random.RandomState(1).randint(0, 50, (1, 9))
    held(FORWARD(model, ids), theirs, ids)
    assert LlamaForCausalLM.from_pretrained(tmp_path, jnp.bfloat16).model.norm.weight.dtype == jnp.bfloat16
    fresh = jax.eval_shape(lambda: LlamaForCausalLM.from_config(tmp_path / "config.json"))
    assert fresh.state_dict().keys() == model.state_dict().keys()


OLD = {  # as transformers 4 wrote them
    "llama": {"rope_theta": 500000.0, "rope_scaling": {**LLAMA3, "rope_theta": 500000.0}, "eos_token_id": [1, 2]},
    "mistral": {"rope_theta": 1e6, "sliding_window": None, "eos_token_id": 2},
    "qwen2": {"rope_theta": 1e6, "rope_scaling": {"type": "linear", "factor": 2.0}, "use_sliding_window": False},
}


@pytest.mark.parametrize("kind", OLD)
def test_a_configuration_of_transformers_4(kind):
    transformers = pytest.importorskip("transformers", reason="the original: pip install --no-deps transformers")
    old = {"model_type": kind, **SMALL, **OLD[kind]}
    theirs = transformers.AutoConfig.for_model(**old).to_dict()
    assert LlamaConfig.from_dict(old) == LlamaConfig.from_dict(theirs)


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

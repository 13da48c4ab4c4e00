"""The model files of examples/models against their PyTorch originals, and against themselves run over torch.nn."""

import copy
import functools
import json
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxnn as nn

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "examples"))

from models import gpt2, lstm_tagger, resnet, unet, vit  # noqa: E402

from tests.examples.record_models import RECORDED, names_of, weights_of  # noqa: E402

ORIGINALS = json.loads(RECORDED.read_text())
GPT2 = {"vocab_size": 48, "n_positions": 16, "n_embd": 16, "n_layer": 2, "n_head": 2}
VIT = {"image_size": 16, "patch_size": 8, "num_layers": 2, "num_heads": 2, "hidden_dim": 16, "mlp_dim": 32}
MAKE = {
    "vit.thin": lambda: vit.VisionTransformer(**VIT, representation_size=8),
    "gpt2.gpt2": gpt2.GPT2LMHeadModel,
    "gpt2.thin": lambda: gpt2.GPT2LMHeadModel(gpt2.GPT2Config(**GPT2)),
    "unet.unet": lambda: unet.UNet(3, 2),
    "unet.unet_bilinear": lambda: unet.UNet(3, 2, bilinear=True),
    "unet.older": lambda: unet.UNet(3, 2, bias=True),
    "unet.older_bilinear": lambda: unet.UNet(3, 2, bilinear=True, bias=True),
    "lstm_tagger.tagger": lambda: lstm_tagger.LSTMTagger(6, 5, 9, 3),
}


def make(name):
    family, _, variant = name.partition(".")
    return MAKE.get(name) or getattr({"resnet": resnet, "vit": vit}[family], variant)


@pytest.mark.parametrize("name", ORIGINALS)
def test_names_shapes_and_dtypes_are_the_originals(name):
    # Nothing is computed: a module is a pytree, so even ViT-H is made of shapes alone.
    state = jax.eval_shape(make(name)).state_dict()
    counters = {key for key in state if key.endswith("num_batches_tracked")}
    state = {key: np.zeros((), np.int64) if key in counters else value for key, value in state.items()}
    assert names_of(state) == ORIGINALS[name]["names"]


@pytest.mark.parametrize("name", [name for name in ORIGINALS if "weights" in ORIGINALS[name]])
def test_a_seed_gives_the_originals_weights(name):
    nn.manual_seed(0)
    state = make(name)().state_dict()
    figures, expected = weights_of(state), ORIGINALS[name]["weights"]
    assert figures.keys() == expected.keys()
    for key, numbers in expected.items():
        scale = np.abs(state[key]).astype(np.float64)
        np.testing.assert_allclose(figures[key][:2], numbers[:2], rtol=1e-6, err_msg=key)
        assert abs(figures[key][2] - numbers[2]) <= 1e-6 * scale.sum(), key
        if key.endswith("num_batches_tracked"):
            assert state[key].dtype == np.int64


# -- the same file over torch.nn --------------------------------------------------------------------------------------

RUNS = {
    "resnet18": ("resnet", lambda m: m.ResNet(m.BasicBlock, [1, 1, 1, 1], 5, zero_init_residual=True)),
    "resnext": (
        "resnet",
        lambda m: m.ResNet(
            m.Bottleneck, [1, 1, 1, 1], 5, groups=4, width_per_group=8, replace_stride_with_dilation=(False, True, True)
        ),
    ),
    "vit": ("vit", lambda m: m.VisionTransformer(**VIT, num_classes=5, representation_size=8)),
    "gpt2": ("gpt2", lambda m: m.GPT2LMHeadModel(m.GPT2Config(**GPT2))),
    "unet": ("unet", lambda m: m.UNet(3, 2, width=4)),
    "unet, bilinear": ("unet", lambda m: m.UNet(3, 2, bilinear=True, width=4, bias=True)),
    "tagger": ("lstm_tagger", lambda m: m.LSTMTagger(6, 5, 9, 3)),
}
INPUTS = {
    "resnet": (2, 3, 40, 40),
    "vit": (2, 3, 16, 16),
    "unet": (1, 3, 21, 34),
    "gpt2": (2, 11),
    "lstm_tagger": (7,),
}
OURS = {"resnet": resnet, "vit": vit, "gpt2": gpt2, "unet": unet, "lstm_tagger": lstm_tagger}


def _twins(name, training):
    """The model, and its file over torch, from one seed and then with the same weights, none of them 0 or 1."""
    import torch

    from tests.examples import twin

    family, build = RUNS[name]
    nn.manual_seed(0)
    torch.manual_seed(0)
    ours, theirs = build(OURS[family]), build(twin.load(family))
    rng = np.random.default_rng(0)
    for key, value in theirs.state_dict().items():
        np.testing.assert_allclose(ours.state_dict()[key], value, rtol=1e-6, atol=1e-7, err_msg=key)
    for value in theirs.state_dict().values():
        if value.dtype == torch.float32:  # constants hide mistakes
            value += 0.1 * torch.from_numpy(rng.random(value.shape, np.float32))
    ours.load_state_dict({key: value.numpy() for key, value in theirs.state_dict().items()})
    for module in [*ours.modules(), *theirs.modules()]:
        if hasattr(module, "attn_pdrop"):
            module.attn_pdrop = 0.0
        elif type(module).__name__ == "Dropout":
            module.p = 0.0
    ours.train(training)
    theirs.train(training)
    return ours, theirs


@pytest.mark.parametrize("name", RUNS)
def test_numbers_are_those_of_the_file_over_torch(name):
    """Outputs; in training mode running statistics; gradients."""
    torch = pytest.importorskip("torch")
    from parity import compare

    training = name not in ("resnet18", "unet")
    differentiated = training and name != "unet, bilinear"  # a minute of compilation, for what resnext holds as well
    ours, theirs = _twins(name, training)
    shape, rng = INPUTS[RUNS[name][0]], np.random.default_rng(1)
    x = rng.integers(0, 9, shape) if len(shape) < 3 else rng.standard_normal(shape, np.float32)

    @functools.partial(nn.jit, compiler_options={"xla_backend_optimization_level": 0})  # compiles in half the time
    def run(model, x):
        def loss(model):
            out = model(x)
            return (out * jnp.cos(jnp.arange(out.size).reshape(out.shape))).sum(), out

        if not differentiated:
            return loss(model)[1], {}
        (_, out), grads = nn.value_and_grad(loss, has_aux=True)(model)
        return out, grads

    def run_torch(model, precision):
        model = copy.deepcopy(model).to(precision)
        out = model(torch.from_numpy(x) if x.dtype == np.int64 else torch.from_numpy(x).to(precision))
        if differentiated:
            (out * torch.cos(torch.arange(out.numel(), dtype=precision).reshape(out.shape))).sum().backward()
        grads = {key: p.grad.numpy() for key, p in model.named_parameters() if differentiated}
        return out.detach().numpy(), grads, {key: b.numpy() for key, b in model.named_buffers()}

    out, grads = run(ours, jnp.asarray(x))
    buffers = {key: np.asarray(box.value) for key, box in ours.named_buffers()}
    truth, true_grads, true_buffers = run_torch(theirs, torch.float64)
    own, own_grads, own_buffers = run_torch(theirs, torch.float32)
    assert grads.keys() == own_grads.keys() and buffers.keys() == own_buffers.keys()
    noise = compare.NOISE * compare.scale_of(list(true_grads.values()))
    # torch's error of a single gradient is one sample of roundings: the largest of the network's is the measure
    allowed = max([compare.error(own_grads[key], true_grads[key], noise) for key in grads], default=None)
    held = [compare.judge("output", out, truth, own, "float32")]
    held += [compare.judge(f"gradient {key}", grads[key], true_grads[key], allowed, "float32", noise) for key in grads]
    held += [compare.judge(key, buffers[key], true_buffers[key], own_buffers[key], "float32") for key in buffers]
    failed = [f"{t.where}: {t.ours:.2g}, torch's own {t.theirs:.2g} {t.note}" for t in held if not t.held]
    assert not failed, "\n".join(failed)


# -- what else the files do -------------------------------------------------------------------------------------------


def test_gpt2_generates():
    nn.manual_seed(0)
    model = gpt2.GPT2LMHeadModel(gpt2.GPT2Config(**GPT2)).eval()
    assert len(list(model.parameters())) == len(model.state_dict()) - 1  # the head is tied
    prompt = jnp.array([[1, 2, 3], [4, 5, 6]])
    ids = model.generate(prompt, 20, temperature=0)
    assert ids.shape == (2, 23) and (ids[:, :3] == prompt).all()
    likeliest = nn.jit(lambda m, ids: m(ids).argmax(-1))
    np.testing.assert_array_equal(ids[:, 3:17], likeliest(model, ids[:, :16])[:, 2:])
    np.testing.assert_array_equal(ids[:, 22], likeliest(model, ids[:, 6:22])[:, -1])  # the last 16 of all
    nn.manual_seed(1)
    drawn = model.generate(prompt, 20, temperature=2.0)
    nn.manual_seed(1)
    assert (model.generate(prompt, 20, temperature=2.0) == drawn).all() and (drawn != ids).any()
    assert (model.generate(prompt, 20, temperature=5.0, top_k=1) == ids).all()


def test_gpt2_takes_the_hubs_file():
    model = gpt2.GPT2LMHeadModel(gpt2.GPT2Config(**GPT2))
    weights = {key: value + 1 for key, value in model.transformer.state_dict().items()}
    masks = {f"h.{i}.attn.bias": np.ones((1, 1, 16, 16), np.float32) for i in range(2)}
    found = model.transformer.load_state_dict(weights | masks, strict=False)
    assert not found.missing_keys and set(found.unexpected_keys) == set(masks)
    np.testing.assert_array_equal(model.lm_head.weight, weights["wte.weight"])


def test_the_tagger_tags_a_batch_as_one_by_one():
    nn.manual_seed(0)
    model = lstm_tagger.LSTMTagger(6, 5, 9, 3)
    sentences, lengths = np.random.default_rng(0).integers(0, 9, (7, 2)), [4, 7]
    scores = model.tag_batch(jnp.asarray(sentences), lengths)
    assert scores.shape == (7, 2, 3)
    for i, length in enumerate(lengths):
        np.testing.assert_allclose(scores[:length, i], model(jnp.asarray(sentences[:length, i])), rtol=1e-5, atol=1e-6)


def test_sizes_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="multiple of patch_size"):
        vit.VisionTransformer(20, 8, 1, 1, 8, 8)
    with pytest.raises(ValueError, match="16 x 16, got 24 x 16"):
        vit.VisionTransformer(**VIT)(jnp.zeros((1, 3, 24, 16)))
    with pytest.raises(ValueError, match="Bottleneck"):
        resnet.resnet18(groups=2)

"""An exported program: the module's numbers, its state, open sizes, files that are whole, and what is refused."""

import json
import subprocess
import sys
import textwrap
import zipfile

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import pytest

import jaxnn as nn
from jaxnn.attention import SDPBackend, sdpa_kernel
from jaxnn.io import CheckpointError

IMAGES = jnp.asarray(np.random.default_rng(0).normal(size=(4, 1, 6, 6)), jnp.float32)


class Net(nn.Module):
    """Ties, a buffer that is not saved, an array in a plain attribute, statistics, a keyword, a dict as its result."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(1, 3, 3)
        self.norm = nn.BatchNorm2d(3)
        self.first = nn.Linear(3, 3, bias=False)
        self.second = nn.Linear(3, 3, bias=False)
        self.second.weight = self.first.weight
        self.register_buffer("shift", jnp.ones(3), persistent=False)
        self.cache = jnp.full(3, 2.0)

    def forward(self, image, *, scale):
        hidden = nn.functional.relu(self.norm(self.conv(image))).mean((2, 3))
        return {"logits": self.second(self.first(hidden)) * scale + self.shift, "cache": self.cache}


@pytest.fixture
def model():
    nn.manual_seed(0)
    return Net().eval()


def _export(model, **options):
    batch = nn.export.Dim("batch", min=2, max=8)
    shapes = {"image": {0: batch}}
    return nn.export.export(model, (IMAGES,), {"scale": jnp.float32(3)}, dynamic_shapes=shapes, **options)


def test_a_file_runs_where_the_module_s_source_is_not(model, tmp_path):
    path = tmp_path / "net.jaxnn"
    nn.export.save(_export(model), path, extra_files={"labels": "a b c", "bytes": b"\x00"})
    expected = model(IMAGES[:3], scale=jnp.float32(3))
    np.savez(tmp_path / "case.npz", image=IMAGES[:3], **expected)
    code = f"""
        import jax.numpy as jnp, numpy as np, jaxnn as nn
        extra = {{"labels": None}}
        program = nn.export.load({str(path)!r}, extra_files=extra)
        case = np.load({str(tmp_path / "case.npz")!r})
        found = program(case["image"], scale=jnp.float32(3))
        for name in ("logits", "cache"):
            np.testing.assert_allclose(found[name], case[name], rtol=1e-5, atol=1e-6)
        assert program.platforms == ("cpu", "cuda", "tpu") and extra == {{"labels": b"a b c"}}
        assert repr(program).startswith("ExportedProgram Net(float32[batch, 1, 6, 6], scale=float32[])"), program
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr


def test_the_program_keeps_the_names_and_the_state(model, tmp_path):
    nn.export.save(_export(model), tmp_path / "net.jaxnn")
    program = nn.export.load(tmp_path / "net.jaxnn")
    expected = model.state_dict()
    assert program.state_dict.keys() == expected.keys()
    for name, value in program.state_dict.items():
        assert value.dtype == expected[name].dtype and (np.asarray(value) == np.asarray(expected[name])).all()
    module = program.module()
    assert list(module.state_dict()) == list(expected)
    assert module.second.weight is module.first.weight and len(list(module.parameters())) == len(
        list(model.parameters())
    )
    other = Net().eval()
    module.load_state_dict(other.state_dict())
    found, wanted = module(IMAGES, scale=jnp.float32(1)), other(IMAGES, scale=jnp.float32(1))
    np.testing.assert_allclose(found["logits"], wanted["logits"], rtol=1e-5, atol=1e-6)
    with pytest.raises(NotImplementedError, match="Export the model again in the other mode"):
        module.train()


def test_statistics_that_a_call_changes_are_kept(model):
    with pytest.warns(UserWarning, match=r"training mode.*norm\.running_mean.*eval\(\)"):
        program = _export(model.train())
    for batch in (IMAGES, IMAGES + 1):
        model(batch, scale=jnp.float32(1)), program(batch, scale=jnp.float32(1))
    for name, value in model.state_dict().items():
        np.testing.assert_allclose(program.state_dict[name], value, rtol=1e-5, atol=1e-6)
    module = program.module()
    module(IMAGES, scale=jnp.float32(1))
    assert int(module.norm.num_batches_tracked) == 3 and int(program.state_dict["norm.num_batches_tracked"]) == 2


def test_a_loaded_program_is_trained_further_where_it_was_saved_for_it(tmp_path):
    nn.manual_seed(0)
    model, x = nn.Linear(3, 2), jnp.ones((4, 3))
    loss = lambda m: (m(x) ** 2).mean()  # noqa: E731
    program = nn.export.export(model, (x,))
    nn.export.save(program, tmp_path / "linear.jaxnn", vjp_order=1)
    loaded = nn.export.load(tmp_path / "linear.jaxnn").module()
    expected = nn.grad(loss)(model)
    for name, gradient in nn.grad(loss)(loaded).items():
        np.testing.assert_allclose(gradient, expected[name], rtol=1e-5, atol=1e-6)
    nn.export.save(program, tmp_path / "served.jaxnn")
    with pytest.raises(ValueError, match="(?i)vjp"):
        nn.grad(loss)(nn.export.load(tmp_path / "served.jaxnn").module())


def test_open_sizes(model):
    program = _export(model, platforms="cpu")
    for count in (2, 8):
        assert program(jnp.ones((count, 1, 6, 6)), scale=jnp.float32(1))["logits"].shape == (count, 3)
    with pytest.raises(ValueError, match="Net: batch: expected a size from 2 to 8, got 9"):
        program(jnp.ones((9, 1, 6, 6)), scale=jnp.float32(1))
    with pytest.raises(ValueError, match="same constant"):
        program(jnp.ones((4, 2, 6, 6)), scale=jnp.float32(1))
    with pytest.raises(TypeError, match=r"expected the arguments \(float32\[batch, 1, 6, 6\], scale=float32\[\]\)"):
        program(IMAGES)


def test_sizes_that_depend_on_each_other():
    half = nn.export.Dim("half")
    pairs = nn.export.export(
        lambda x, y: x.reshape(2, -1)[0] + y,
        (jnp.ones(6), jnp.ones(3)),
        dynamic_shapes=((2 * half,), (half,)),
        platforms="cpu",
    )
    assert pairs(jnp.ones(10), jnp.ones(5)).shape == (5,)
    free = nn.export.export(
        lambda x: x["rows"].sum(1),
        ({"rows": jnp.ones((2, 3))},),
        dynamic_shapes=({"rows": [nn.export.Dim.AUTO, None]},),
    )
    assert free({"rows": jnp.ones((5, 3))}).shape == (5,)


@pytest.mark.parametrize(
    "shapes, text",
    [
        (({0: "b"}, None), "one entry for each of 1 arguments"),
        ({"y": {0: "b"}}, r"names among \['x'\]"),
        (({2: "b"},), "x: expected numbers of the 2 dimensions"),
        ((("b",),), "x: expected a dict of dimensions, or one entry for each of the 2 dimensions"),
        (({0: 5},), r"x_0: expected a Dim, its name, or None \(or 2, the example's size\), got 5"),
    ],
)
def test_dynamic_shapes_that_do_not_fit(shapes, text):
    with pytest.raises(ValueError, match=text):
        nn.export.export(lambda x: x, (jnp.ones((2, 3)),), dynamic_shapes=shapes)


def test_what_cannot_be_exported_is_refused(tmp_path):
    x = jnp.ones((2, 3))
    with pytest.raises(TypeError, match=r"args: expected a tuple of the arguments.*Write \(x,\)"):
        nn.export.export(nn.Linear(3, 2), x)
    with pytest.raises(TypeError, match="expected an array, or containers of arrays, got 3"):
        nn.export.export(lambda x, n: x * n, (x, 3))
    with pytest.raises(RuntimeError, match=r"draws random numbers.*eval\(\)"):
        nn.export.export(nn.Dropout(), (x,))
    with pytest.raises(TypeError, match="a module in it"):
        nn.export.export(nn.Sequential(nn.Identity()).train, ())
    with pytest.raises(ValueError, match="platforms: expected some of cpu, cuda, rocm, tpu, got .*gpu"):
        nn.export.export(nn.ReLU(), (x,), platforms=["gpu"])
    with pytest.raises(AssertionError, match="valid identifier"):
        nn.export.Dim("a b")
    with pytest.raises(AssertionError, match="inconsistent min=4, max=2"):
        nn.export.Dim("a", min=4, max=2)
    with pytest.raises(TypeError, match=r"program: expected what nn.export.export gave"):
        nn.export.save(nn.ReLU(), tmp_path / "x.jaxnn")


def test_broken_files_are_named(tmp_path):
    path = tmp_path / "net.jaxnn"
    nn.export.save(nn.export.export(nn.Linear(3, 2), (jnp.ones((1, 3)),), platforms="cpu"), path)
    whole = path.read_bytes()

    def rewritten(change, name="manifest.json"):
        broken = tmp_path / "broken.jaxnn"
        with zipfile.ZipFile(path) as old, zipfile.ZipFile(broken, "w") as new:
            for member in old.namelist():
                data = old.read(member)
                if member == name:
                    data = change(data)
                if data is not None:
                    new.writestr(member, data)
        return broken

    def manifest(**changes):
        return rewritten(lambda data: json.dumps(json.loads(data) | changes))

    for change, text in (
        (lambda: manifest(format=2), "format 2, written by jaxnn .*this version reads 1: upgrade"),
        (lambda: manifest(format="a"), "names no format"),
        (lambda: manifest(arrays={}), "names other arrays"),
        (lambda: rewritten(lambda data: data.replace(b'"arrays"', b'"array"')), "a broken one: .*arrays"),
        (lambda: manifest(about=3), "a broken one"),
        (lambda: rewritten(lambda data: None), "it has no manifest.json"),
        (lambda: rewritten(lambda data: data[:40], "program.jax_export"), r"cannot be read \(made with JAX "),
        (lambda: rewritten(lambda data: data[:-1], "arrays.safetensors"), "bytes"),
        (lambda: rewritten(lambda data: b"["), "no exported program, or a broken one"),
    ):
        with pytest.raises(CheckpointError, match=text):
            nn.export.load(change())
    for length in (0, 10, len(whole) // 2):
        path.write_bytes(whole[:length])
        with pytest.raises(CheckpointError, match="net.jaxnn"):
            nn.export.load(path)
    with pytest.raises(FileNotFoundError):
        nn.export.load(tmp_path / "none.jaxnn")


def test_a_size_that_is_open_in_the_layers_that_take_it(tmp_path):
    nn.manual_seed(0)
    encoder = nn.TransformerEncoderLayer(4, 2, 8, batch_first=True).eval()
    x = jax.random.normal(jax.random.key(0), (2, 5, 4))
    shapes = ({0: nn.export.Dim("batch"), 1: nn.export.Dim("length")},)
    nn.export.save(nn.export.export(encoder, (x[:, :3],), dynamic_shapes=shapes, platforms="cpu"), tmp_path / "a.jaxnn")
    np.testing.assert_allclose(nn.export.load(tmp_path / "a.jaxnn")(x), encoder(x), rtol=1e-4, atol=1e-5)


def test_attention_s_kernels_are_those_whose_form_is_kept():
    """cuDNN's call is none: in a file of `jax.export` blocks of queries stand in for it."""
    x = jnp.ones((1, 256, 128), jnp.bfloat16)
    model = nn.MultiheadAttention(128, 2, batch_first=True).eval().to(jnp.bfloat16)
    attend = lambda x: model(x, x, x, need_weights=False)[0]  # noqa: E731
    gradient = jax.grad(lambda x: attend(x).astype(jnp.float32).sum())
    for program in (attend, gradient):
        text = jax.export.export(jax.jit(program), platforms=["cuda", "tpu"])(x).mlir_module()
        assert "cudnn" not in text and "tpu_custom_call" in text
    assert "cudnn" not in nn.export.export(attend, (x,)).mlir_module()
    assert "cudnn" in jax.jit(attend).trace(x).lower(lowering_platforms=("cuda",)).as_text()
    with (
        sdpa_kernel(SDPBackend.CUDNN_ATTENTION),
        pytest.raises(RuntimeError, match="CUDNN_ATTENTION .* is no part of a file.* Allow another"),
    ):
        jax.export.export(jax.jit(attend), platforms=["cuda"])(x)

"""Every function of ``jaxnn.functional``: pure, differentiable, mappable over each array, lowered for each platform.

The arguments are those of the recording (one case a function: of those with the most arrays, the smallest). Lowering
goes through ``jax.export`` on the CPU: what cannot be run here is at least compiled for.
"""

import inspect

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import pytest

import jaxnn.functional as F
from parity import known, ours, record
from parity.case import slots
from parity.cli import RECORDING

if not RECORDING.exists():
    pytest.skip("no recording: python -m parity record", allow_module_level=True)

pytestmark = pytest.mark.filterwarnings("ignore")  # options that torch warns of are among the cases
PLATFORMS = ("cpu", "cuda", "tpu")

# Functions of no case in PyTorch's databases or ours, for which another name or a test stands.
ALIASES = {"grouped_mm": "tests/functional/test_grouped.py", "scaled_mm": "tests/functional/test_grouped.py"}
# Numbers that decide shapes or branches, as in torch: they cannot be traced.
STATIC = {"normalize.p", "pairwise_distance.p", "pdist.p", "scaled_dot_product_attention.dropout_p"}
# Numbers that no longer do anything.
STATIC |= {"gumbel_softmax.eps"}


def _chosen(kind):
    """Of each name, the recorded case of the fewest numbers among those with the most arrays."""
    chosen = {}
    for case in record.load(RECORDING)[1]:
        if case.error or ours.is_wide(case) or known.known("eager", case):
            continue
        if (case.make is None) == (kind == "function"):
            rank = (-len(case.arrays), sum(array.size for array in case.arrays), case.id)
            if all(array.size for array in case.arrays) and (case.name not in chosen or rank < chosen[case.name][0]):
                chosen[case.name] = (rank, case)
    return {name: case for name, (_, case) in sorted(chosen.items())}


FUNCTIONS, MODULES = _chosen("function"), _chosen("module")
each_function = pytest.mark.parametrize("case", [pytest.param(case, id=name) for name, case in FUNCTIONS.items()])
each_module = pytest.mark.parametrize("case", [pytest.param(case, id=name) for name, case in MODULES.items()])


def _function(case, **changed):
    function = ours.lookup(f"functional.{case.name}")

    def call(arrays):
        with ours.lookup_rng()(jax.random.key(0)):
            kwargs = ours.rebuild(case.kwargs, arrays) | changed
            return ours.flatten(function(*ours.rebuild(case.args, arrays), **kwargs))

    return call


def _total(outputs):
    return sum(
        (jnp.sum(o.astype(jnp.float32)) for o in outputs if jnp.issubdtype(o.dtype, jnp.floating)), jnp.float32(0)
    )


def _with_gradients(case, call):
    """A function of the floating arrays and all arrays: the outputs, and their sum's gradients where torch has some."""

    def total(points, arrays):
        outputs = call([points.get(i, array) for i, array in enumerate(arrays)])
        return _total(outputs), outputs

    def run(points, arrays):
        if not points:
            return call(arrays), {}
        gradients, outputs = jax.grad(total, has_aux=True)(points, arrays)
        return outputs, gradients

    arrays = ours.arrays_of(case)
    return run, {i: arrays[i] for i in case.wrt}, arrays


def test_every_public_function_has_a_case():
    public = {name for name, value in vars(F).items() if inspect.isfunction(value) and not name.startswith("_")}
    assert len(public) > 120
    assert not public - set(FUNCTIONS) - set(ALIASES)


@each_function
def test_lowers_for_every_platform(case):
    run, points, arrays = _with_gradients(case, _function(case))
    assert jax.export.export(jax.jit(run), platforms=PLATFORMS)(points, arrays).platforms == PLATFORMS


@each_module
def test_modules_lower_for_every_platform(case):
    arrays = ours.arrays_of(case)
    module = ours.module_of(case, arrays, None)
    fixed = ours.packed_slots(case)

    def call(module, arrays):
        arrays = [case.arrays[i] if i in fixed else array for i, array in enumerate(arrays)]
        with ours.lookup_rng()(jax.random.key(0)):
            return ours.flatten(module(*ours.rebuild(case.args, arrays), **ours.rebuild(case.kwargs, arrays)))

    leaves, treedef = jax.tree.flatten(module)
    function = jax.jit(lambda leaves, arrays: call(jax.tree.unflatten(treedef, leaves), arrays))
    assert jax.export.export(function, platforms=PLATFORMS)(leaves, arrays).platforms == PLATFORMS


@each_function
def test_traces_under_jit_grad_and_vmap_over_each_array(case):
    call = _function(case)
    run, points, arrays = _with_gradients(case, call)
    outputs, gradients = jax.eval_shape(run, points, arrays)
    assert all(gradients[i].shape == arrays[i].shape for i in case.wrt)
    shapes = [output.shape for output in outputs]
    for i in slots((case.args, case.kwargs)):
        mapped = jax.vmap(lambda one, i=i: call([one if j == i else a for j, a in enumerate(arrays)]))
        stacked = jax.ShapeDtypeStruct((3, *arrays[i].shape), arrays[i].dtype)
        assert [output.shape for output in jax.eval_shape(mapped, stacked)] == [(3, *shape) for shape in shapes]


def _numbers(case):
    """The floating arguments of the case's call that are given by name or stand at their default."""
    parameters = list(inspect.signature(ours.lookup(f"functional.{case.name}")).parameters.values())
    for parameter in parameters[len(case.args) :]:
        value = case.kwargs.get(parameter.name, parameter.default)
        if type(value) is float and np.isfinite(value):
            yield parameter.name, value


@pytest.mark.parametrize(
    ("case", "name", "value"),
    [
        pytest.param(case, name, value, id=f"{function}.{name}")
        for function, case in FUNCTIONS.items()
        for name, value in _numbers(case)
        if f"{function}.{name}" not in STATIC
    ],
)
def test_numbers_may_be_traced(case, name, value):
    arrays = ours.arrays_of(case)
    traced = jax.eval_shape(lambda number: _function(case, **{name: number})(arrays), jnp.float32(value))
    plain = jax.eval_shape(lambda: _function(case)(arrays))
    assert [(o.shape, o.dtype) for o in traced] == [(o.shape, o.dtype) for o in plain]


@each_function
def test_arguments_are_left_alone(case):
    arrays = ours.arrays_of(case)
    before = [np.asarray(array).copy() for array in arrays]
    _function(case)(arrays)
    assert all(np.array_equal(a, b, equal_nan=True) for a, b in zip(arrays, before))

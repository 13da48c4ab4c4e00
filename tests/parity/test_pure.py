"""Every function of ``jaxnn.functional``: pure, differentiable, mappable over each array, lowered for each platform.

The arguments are those of the recording (one case a function and number of arrays). Lowering goes through
``jax.export`` on the CPU: what cannot be run here is at least compiled for.
"""

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import pytest

from parity import ours, record
from parity.case import slots
from parity.cli import RECORDING

if not RECORDING.exists():
    pytest.skip("no recording: python -m parity record", allow_module_level=True)

pytestmark = pytest.mark.filterwarnings("ignore")  # options that torch warns of are among the cases
PLATFORMS = ("cpu", "cuda", "tpu")


def _smallest(kind):
    """Of each name, the recorded case of the fewest numbers among those with the most arrays."""
    chosen = {}
    for case in record.load(RECORDING)[1]:
        if case.error is None and (case.make is None) == (kind == "function") and not ours.is_wide(case):
            rank = (-len(case.arrays), sum(array.size for array in case.arrays), case.id)
            if all(array.size for array in case.arrays) and (case.name not in chosen or rank < chosen[case.name][0]):
                chosen[case.name] = (rank, case)
    return [pytest.param(case, id=name) for name, (_, case) in sorted(chosen.items())]


def _function(case):
    function = ours.lookup(f"functional.{case.name}")

    def call(arrays):
        with ours.lookup_rng()(jax.random.key(0)):
            return ours.flatten(function(*ours.rebuild(case.args, arrays), **ours.rebuild(case.kwargs, arrays)))

    return call


def _total(outputs):
    return sum(
        (jnp.sum(o.astype(jnp.float32)) for o in outputs if jnp.issubdtype(o.dtype, jnp.floating)), jnp.float32(0)
    )


@pytest.mark.parametrize("case", _smallest("function"))
def test_lowers_for_every_platform(case):
    arrays = ours.arrays_of(case)
    exported = jax.export.export(jax.jit(_function(case)), platforms=PLATFORMS)(arrays)
    assert exported.platforms == PLATFORMS
    floating = [i for i in slots((case.args, case.kwargs)) if jnp.issubdtype(arrays[i].dtype, jnp.floating)]
    if case.wrt and floating:
        gradient = jax.grad(lambda arrays: _total(_function(case)(arrays)), allow_int=True)
        jax.export.export(jax.jit(gradient), platforms=PLATFORMS)(arrays)


@pytest.mark.parametrize("case", _smallest("module"))
def test_modules_lower_for_every_platform(case):
    arrays = ours.arrays_of(case)
    module = ours.module_of(case, arrays, None)

    def call(module, arrays):
        with ours.lookup_rng()(jax.random.key(0)):
            return ours.flatten(module(*ours.rebuild(case.args, arrays), **ours.rebuild(case.kwargs, arrays)))

    leaves, treedef = jax.tree.flatten(module)
    function = jax.jit(lambda leaves, arrays: call(jax.tree.unflatten(treedef, leaves), arrays))
    assert jax.export.export(function, platforms=PLATFORMS)(leaves, arrays).platforms == PLATFORMS


@pytest.mark.parametrize("case", _smallest("function"))
def test_traces_under_jit_grad_and_vmap_over_each_array(case):
    arrays = ours.arrays_of(case)
    call = _function(case)
    shapes = [output.shape for output in jax.eval_shape(call, arrays)]
    if case.wrt:
        gradients = jax.eval_shape(
            lambda points: jax.grad(
                lambda points: _total(call([points.get(i, array) for i, array in enumerate(arrays)]))
            )(points),
            {i: arrays[i] for i in case.wrt},
        )
        assert all(gradients[i].shape == arrays[i].shape for i in case.wrt)
    for i in slots((case.args, case.kwargs)):
        stacked = jnp.stack([arrays[i]] * 3)
        mapped = jax.vmap(lambda one, i=i: call([one if j == i else a for j, a in enumerate(arrays)]))
        outputs = jax.eval_shape(mapped, stacked)
        assert [output.shape for output in outputs] == [(3, *shape) for shape in shapes]


@pytest.mark.parametrize("case", _smallest("function"))
def test_arguments_are_left_alone(case):
    arrays = ours.arrays_of(case)
    before = [np.asarray(array).copy() for array in arrays]
    _function(case)(arrays)
    assert all(np.array_equal(a, b, equal_nan=True) for a, b in zip(arrays, before))

"""Modes belong to a thread and to a task of an event loop, whatever the order in which blocks end."""

import asyncio
import threading

import jax
import jax.numpy as jnp
import pytest

import jaxnn as nn
import jaxnn.functional as F
from jaxnn import _ambient as ambient
from jaxnn.attention import SDPBackend, sdpa_kernel
from jaxnn.functional.attention_backends import allowed_backends
from jaxnn.utils import parametrize

X = jnp.ones((2, 3))


def _cached():
    layer = parametrize.register_parametrization(nn.Linear(2, 2), "weight", nn.Identity())
    return layer.weight is layer.weight and parametrize._cache_enabled.value


# How to enter, what to ask, and the answers inside and outside.
MODES = {
    "no_grad": (nn.no_grad, nn.is_grad_enabled, False, True),
    "inference_mode": (nn.inference_mode, nn.is_inference_mode_enabled, True, False),
    "set_grad_enabled": (lambda: nn.set_grad_enabled(False), nn.is_grad_enabled, False, True),
    "autocast": (nn.autocast, nn.is_autocast_enabled, True, False),
    "autocast, what it does": (nn.autocast, lambda: F.linear(X, X).dtype, jnp.bfloat16, jnp.float32),
    "sdpa_kernel": (
        lambda: sdpa_kernel(SDPBackend.FLASH_ATTENTION),
        allowed_backends,
        (SDPBackend.FLASH_ATTENTION,),
        None,
    ),
    "parametrize.cached": (parametrize.cached, lambda: parametrize._cache_enabled.value, True, False),
}


@pytest.fixture(autouse=True)
def _nothing_is_left():
    yield
    assert ambient.current.get().key == frozenset()


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("first_out", [True, False], ids=["first in, first out", "first in, last out"])
def test_tasks_of_one_event_loop_have_each_its_own_mode(mode, first_out):
    enter, ask, inside, outside = MODES[mode]

    async def task(number, seen):
        seen.append(ask() == outside)
        await asyncio.sleep(0)
        with enter():
            for _ in range(1 + (number if first_out else 3 - number)):
                seen.append(ask() == inside)
                await asyncio.sleep(0)
            seen.append(ask() == inside)
        seen.append(ask() == outside)

    async def bystander(seen):
        for _ in range(8):
            seen.append(ask() == outside)
            await asyncio.sleep(0)

    async def main(seen):
        await asyncio.gather(*(task(number, seen) for number in range(3)), bystander(seen))

    seen: list[bool] = []
    asyncio.run(main(seen))
    assert all(seen) and ask() == outside


@pytest.mark.parametrize("mode", MODES)
def test_a_thread_keeps_its_mode_to_itself(mode):
    enter, ask, inside, outside = MODES[mode]
    entered, looked, seen = threading.Event(), threading.Event(), []

    def work():
        with enter():
            entered.set()
            looked.wait(60)
            seen.append(ask() == inside)

    thread = threading.Thread(target=work)
    thread.start()
    entered.wait(60)
    seen.append(ask() == outside)
    looked.set()
    thread.join()
    assert seen == [True, True]


def _flows(model, jitted):
    return bool(jax.grad(lambda x: jitted(model, x).sum())(X).any())


@pytest.mark.parametrize("jit", [jax.jit, nn.jit], ids=["jax.jit", "nn.jit"])
def test_compiled_code_is_that_of_the_tasks_mode(jit):
    model, jitted = nn.Linear(3, 3), jit(lambda model, x: model(x))

    async def task(mode, flows, seen):
        with mode:
            for _ in range(3):
                seen.append(_flows(model, jitted) == flows)
                await asyncio.sleep(0)

    async def main(seen):
        await asyncio.gather(task(nn.no_grad(), False, seen), task(nn.enable_grad(), True, seen))

    seen: list[bool] = []
    asyncio.run(main(seen))
    assert all(seen)


def test_one_mode_object_in_several_tasks():
    shared = nn.no_grad()

    async def task(pauses, seen):
        with shared:
            for _ in range(pauses):
                await asyncio.sleep(0)
            seen.append(not nn.is_grad_enabled())
        seen.append(nn.is_grad_enabled())

    async def main(seen):
        await asyncio.gather(*(task(pauses, seen) for pauses in (3, 1, 2)))

    seen: list[bool] = []
    asyncio.run(main(seen))
    assert all(seen) and nn.is_grad_enabled()


def test_blocks_may_end_in_the_order_in_which_they_began():
    outer, inner = nn.no_grad(), nn.autocast()
    outer.__enter__()
    inner.__enter__()
    outer.__exit__()
    assert nn.is_grad_enabled() and nn.is_autocast_enabled()
    inner.__exit__()
    assert not nn.is_autocast_enabled()


def test_leaving_a_mode_brings_the_compiled_code_back():
    traces = []

    @jax.jit
    def jitted(model, x):
        traces.append(nn.is_grad_enabled())
        return model(x)

    model = nn.Linear(3, 3)
    for _ in range(2):
        jitted(model, X)
        with nn.no_grad():
            jitted(model, X)
            with nn.no_grad():
                jitted(model, X)
        threading.Thread(target=jitted, args=(model, X)).start()
    assert traces == [True, False]


def test_setting_again_and_again_keeps_nothing():
    with nn.no_grad():
        for _ in range(50):
            nn.set_grad_enabled(True)
            assert nn.is_grad_enabled()
        depth, state = 0, ambient.current.get()
        while state.outer is not None:
            depth, state = depth + 1, state.outer
        assert depth == 1
    assert nn.is_grad_enabled()

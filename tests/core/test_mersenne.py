"""The host generator against torch's: the same numbers, the same state."""

import copy
import pickle

import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

import jaxnn as nn
from jaxnn import init
from jaxnn.core import random
from jaxnn.mersenne import compiled_fills
from jaxnn.mersenne.twister import Twister

COMPILATION = "full"  # see conftest.py: without LLVM's optimisation no multiply-adds are fused, and NumPy fills
DTYPES = {
    "float32": np.float32,
    "float64": np.float64,
    "bfloat16": ml_dtypes.bfloat16,
    "float16": np.float16,
}
SIZES = (0, 1, 2, 15, 16, 17, 31, 32, 33, 1000, 300_001)
SEEDS = (0, 1, 5, 2**32 + 7, 2**63 + 11)


@pytest.fixture
def torch():
    return pytest.importorskip("torch")


def pair(torch, seed):
    torch.manual_seed(seed)
    return Twister(seed)


def assert_equal(ours, theirs):
    np.testing.assert_array_equal(ours.astype(np.float64), theirs.double().numpy())


def assert_close(ours, theirs, mean=0.0):
    """To 2 units in the last place of the largest number on the way: the scaled draw, the mean, or their sum."""
    theirs = theirs.double().numpy()
    eps = float(ml_dtypes.finfo(ours.dtype).eps)
    largest = np.maximum(np.maximum(np.abs(theirs), np.abs(theirs - mean)), abs(mean))
    assert np.all(np.abs(ours.astype(np.float64) - theirs) <= 2 * eps * largest)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("seed", SEEDS)
def test_uniform_is_torch_bit_for_bit(torch, dtype, seed):
    twister = pair(torch, seed)
    for size in SIZES:
        for low, high in ((0, 1), (-0.3, 0.3), (1000.1, 1001.3), (3, 3), (-7.7, 1e-3)):
            theirs = torch.empty(size, dtype=getattr(torch, dtype)).uniform_(low, high)
            assert_equal(twister.uniform((size,), low, high, DTYPES[dtype]), theirs)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("seed", SEEDS)
def test_normal_is_torch_to_two_ulp(torch, dtype, seed):
    twister = pair(torch, seed)
    for size in SIZES:
        for mean, std in ((0.0, 1.0), (0.0, 0.02), (0.5, 2.0), (3.0, 0.0)):
            theirs = torch.empty(size, dtype=getattr(torch, dtype)).normal_(mean, std)
            assert_close(twister.normal((size,), mean, std, DTYPES[dtype]), theirs, mean)
    np.testing.assert_array_equal(twister.get_state(), torch.get_rng_state().numpy())


@pytest.mark.parametrize("size", (16, 48, 4099, 100_000))
def test_normal_float32_has_the_same_bits(torch, size):
    """On a processor with AVX2, which is where torch has the code that ours follows."""
    if torch.backends.cpu.get_cpu_capability() not in ("AVX2", "AVX512"):
        pytest.skip("torch's kernel for this processor is another one")
    twister = pair(torch, 3)
    for _ in range(5):
        assert_equal(twister.normal((size,), 0.0, 0.02), torch.empty(size).normal_(0.0, 0.02))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("before", [0, 5, 624, 637])
def test_long_fills_are_compiled_and_have_the_same_bits(monkeypatch, before, dtype):
    size = 2 * compiled_fills.WORDS + 37
    long, short = Twister(1), Twister(1)
    for twister, limit in ((long, 0), (short, 10**18)):
        monkeypatch.setattr(compiled_fills, "_PAYS_AFTER", limit)
        monkeypatch.setattr(compiled_fills, "same_bits", {})
        twister.uniform((before,))
        numbers = [
            twister.uniform((size,), -0.3, 0.3, DTYPES[dtype]),
            twister.normal((size,), 0.1, 0.02, DTYPES[dtype]),
        ]
        if twister is long:
            assert set(compiled_fills.same_bits) == {"uniform", "normal"}
            expected = numbers
    for ours, theirs in zip(numbers, expected):
        np.testing.assert_array_equal(ours, theirs)
    np.testing.assert_array_equal(long.get_state(), short.get_state())


def test_a_compiler_with_other_bits_is_not_used(monkeypatch):
    monkeypatch.setattr(compiled_fills, "_PAYS_AFTER", 0)
    monkeypatch.setattr(compiled_fills, "same_bits", {})
    expected = Twister(1).uniform((compiled_fills.WORDS * 2,))
    monkeypatch.setattr(compiled_fills, "same_bits", {})
    sound = compiled_fills.uniform
    monkeypatch.setattr(compiled_fills, "uniform", lambda *args: (sound(*args)[0] + 0.5, *sound(*args)[1:]))
    np.testing.assert_array_equal(Twister(1).uniform((compiled_fills.WORDS * 2,)), expected)
    assert compiled_fills.same_bits == {"uniform": False}


def test_other_bits_are_seen_in_a_later_fill(monkeypatch):
    """JAX may have compiled anew, with other options."""
    monkeypatch.setattr(compiled_fills, "same_bits", {})
    size = 2 * compiled_fills.WORDS
    expected = Twister(1)
    fills = [expected.normal((size,)) for _ in range(2)]
    monkeypatch.setattr(compiled_fills, "worthwhile", lambda size: True)
    twister, sound = Twister(1), compiled_fills.normal
    np.testing.assert_array_equal(twister.normal((size,)), fills[0])
    monkeypatch.setattr(compiled_fills, "normal", lambda *args: (sound(*args)[0] + 0.5, *sound(*args)[1:]))
    np.testing.assert_array_equal(twister.normal((size,)), fills[1])


def test_other_bits_are_seen_after_bounds_that_are_powers_of_two(monkeypatch):
    """Between these nothing is rounded: that a fill has the same bits says nothing of the next one."""
    unfused = compiled_fills.uniform
    monkeypatch.setattr(compiled_fills, "same_bits", {})
    monkeypatch.setattr(compiled_fills, "worthwhile", lambda size: True)

    def rounds_twice(window, low, high):
        values, *rest = unfused(window, np.float32(0), np.float32(1))
        return np.asarray(values) * (high - low) + low, *rest

    monkeypatch.setattr(compiled_fills, "uniform", rounds_twice)
    size = 3 * compiled_fills.WORDS
    for low, high in ((-0.5, 0.5), (-0.3, 0.45)):
        with monkeypatch.context() as patch:
            patch.setattr(compiled_fills, "worthwhile", lambda size: False)
            expected = Twister(1).uniform((size,), low, high)
        np.testing.assert_array_equal(Twister(1).uniform((size,), low, high), expected)


def test_other_bits_are_seen_where_the_first_fill_is_of_16_bits(monkeypatch):
    monkeypatch.setattr(compiled_fills, "_PAYS_AFTER", 0)
    monkeypatch.setattr(compiled_fills, "same_bits", {})
    sound = compiled_fills.normal
    monkeypatch.setattr(compiled_fills, "normal", lambda *args: (jnp.nextafter(sound(*args)[0], 9), *sound(*args)[1:]))
    Twister(1).normal((compiled_fills.WORDS * 2,), 0.0, 1.0, ml_dtypes.bfloat16)
    assert compiled_fills.same_bits == {"normal": False}


def test_the_second_of_a_pair_waits_for_the_next_call(torch):
    twister = pair(torch, 0)
    for size in (1, 16, 1, 3, 1):
        assert_close(twister.normal((size,)), torch.empty(size).normal_())


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("options", [(0, 1, -2, 2), (0, 0.02, -2, 2), (0, 1, 1.5, 3), (1, 0.5, -1, 0.5)])
def test_trunc_normal(torch, dtype, options):
    twister = pair(torch, 7)
    for size in (0, 1, 15, 16, 33, 5000):
        theirs = torch.nn.init.trunc_normal_(torch.empty(size, dtype=getattr(torch, dtype)), *options)
        assert_close(twister.trunc_normal((size,), *options, dtype=DTYPES[dtype]), theirs, options[0])


def test_integers_permutations_and_flags(torch):
    twister = pair(torch, 9)
    for n in (0, 1, 2, 17, 500):
        np.testing.assert_array_equal(twister.randperm(n), torch.randperm(n).numpy())
        assert_equal(twister.bernoulli((n,), 0.3), torch.empty(n).bernoulli_(0.3))
        assert_equal(twister.random((n,), -5, 1000), torch.empty(n, dtype=torch.int64).random_(-5, 1000))
        assert_equal(twister.random((n,), 0, 2**40), torch.empty(n, dtype=torch.int64).random_(0, 2**40))


def test_several_permutations_at_once_are_those_drawn_one_by_one():
    one, many = Twister(4), Twister(4)
    np.testing.assert_array_equal(many.randperms(5, 9, 4), [one.randperm(9)[:4] for _ in range(5)])
    np.testing.assert_array_equal(many.randperm(9), one.randperm(9))


def test_state_is_torch_state_in_both_directions(torch):
    twister = pair(torch, 1)
    twister.normal((3,)), torch.empty(3).normal_()
    np.testing.assert_array_equal(twister.get_state(), torch.get_rng_state().numpy())
    other = Twister(0)
    other.set_state(torch.get_rng_state().numpy())
    assert_equal(other.normal((5,)), torch.empty(5).normal_())
    torch.set_rng_state(torch.from_numpy(other.get_state()))
    assert_equal(other.uniform((700,)), torch.empty(700).uniform_())


@pytest.mark.parametrize("duplicate", [copy.copy, copy.deepcopy, lambda t: pickle.loads(pickle.dumps(t))])
def test_copies_draw_the_same_and_apart(duplicate):
    twister = Twister(2)
    twister.normal((5,))
    twin = duplicate(twister)
    drawn = twister.normal((700,))
    np.testing.assert_array_equal(twin.normal((700,)), drawn)


@pytest.mark.parametrize(
    "call",
    [
        lambda t: t.uniform((3,), 1.0, 0.0),
        lambda t: t.uniform((3,), 0.0, float("inf")),
        lambda t: t.normal((3,), 0.0, -1.0),
        lambda t: t.bernoulli((3,), 1.5),
        lambda t: t.random((3,), 2, 2),
        lambda t: t.set_state(np.zeros(3, np.uint8)),
        lambda t: t.set_state(np.zeros(5056, np.uint8)),
        lambda t: t.normal((3,), dtype=np.int32),
    ],
)
def test_errors_are_runtime_errors_as_in_torch(call):
    with pytest.raises(RuntimeError):
        call(Twister(0))


def test_generator_state_holds_the_twister_and_the_key_stream():
    generator = random.Generator().manual_seed(11)
    generator.host.uniform((5,)), generator.next_key()
    state = generator.get_state()
    first = generator.host.uniform((5,)), np.asarray(random._key_data(generator.next_key()))
    generator.set_state(state)
    again = generator.host.uniform((5,)), np.asarray(random._key_data(generator.next_key()))
    np.testing.assert_array_equal(first[0], again[0])
    np.testing.assert_array_equal(first[1], again[1])
    assert generator.initial_seed() == 11


def test_fork_rng_puts_the_global_generator_back():
    random.manual_seed(0)
    with random.fork_rng():
        inside = random.default_generator.host.uniform((4,))
        random.manual_seed(5)
    np.testing.assert_array_equal(random.default_generator.host.uniform((4,)), inside)
    assert random.initial_seed() == 0
    with random.fork_rng(enabled=False):
        random.manual_seed(5)
    assert random.initial_seed() == 5


def test_the_global_state_goes_to_torch_and_comes_from_it(torch):
    torch.manual_seed(6), random.manual_seed(1)
    torch.empty(3).normal_(), torch.empty(701).uniform_()
    random.set_rng_state(torch.get_rng_state().numpy())
    layer, theirs = nn.Linear(3, 4), torch.nn.Linear(3, 4)
    np.testing.assert_array_equal(layer.weight, theirs.weight.detach().numpy())
    assert random.initial_seed() == 6

    random.next_key(), random.manual_seed(8), init.normal_(nn.Parameter(jnp.zeros(5)))
    torch.set_rng_state(torch.from_numpy(random.get_rng_state()[:5056]))
    assert_close(np.asarray(init.normal_(nn.Parameter(jnp.zeros(7)))), torch.empty(7).normal_())
    assert torch.initial_seed() == 8


def test_a_forked_block_in_torch_and_here_leaves_the_same_draws(torch):
    torch.manual_seed(2), random.manual_seed(2)
    for fork in (torch.random.fork_rng(devices=[]), nn.fork_rng()):
        with fork:
            nn.Linear(5, 5), torch.nn.Linear(5, 5)
    np.testing.assert_array_equal(nn.Linear(3, 4).weight, torch.nn.Linear(3, 4).weight.detach().numpy())


@pytest.mark.parametrize("seed", SEEDS)
def test_a_generator_is_torchs_at_every_step_of_its_life(torch, seed):
    ours, theirs = nn.Generator().manual_seed(seed), torch.Generator().manual_seed(seed)
    assert ours.initial_seed() == theirs.initial_seed()

    def draw():
        box = nn.Parameter(jnp.zeros((3, 5)))
        assert_close(np.asarray(init.normal_(box, generator=ours)), torch.empty(3, 5).normal_(generator=theirs))
        assert_equal(np.asarray(init.uniform_(box, generator=ours)), torch.empty(3, 5).uniform_(generator=theirs))
        np.testing.assert_array_equal(ours.get_state()[:5056], theirs.get_state().numpy())

    draw()
    kept, their_kept = ours.get_state(), theirs.get_state()
    draw()
    ours.set_state(kept), theirs.set_state(their_kept)
    draw()
    ours, theirs = ours.clone_state(), theirs.clone_state()
    draw()
    ours.set_state(theirs.get_state().numpy())
    draw()

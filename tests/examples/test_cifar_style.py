"""examples/cifar_style.py: it learns, augments, goes on after a stop with the same steps, and draws."""

import functools
import sys
from pathlib import Path

import numpy as np
import pytest

import jaxnn as nn

sys.path.insert(0, str(Path(__file__).parents[2] / "examples"))

with pytest.MonkeyPatch.context() as quick:  # its functions are compiled as they are decorated: quickly, not well
    quick.setattr(nn, "jit", functools.partial(nn.jit, compiler_options={"xla_backend_optimization_level": 0}))
    import cifar_style

OPTIONS = "--batch 32 --epochs 3 --lr 0.01".split()
LOAD, NET = cifar_style.load_data, cifar_style.ResNet


@pytest.fixture(scope="module", autouse=True)
def _few_images_and_a_narrow_network():
    for needed in ("matplotlib", "sklearn", "tensorboardX", "tqdm"):
        pytest.importorskip(needed)

    def few(seed):
        training, held_out = LOAD(seed)
        for data, count in ((training, 96), (held_out, 40)):
            data.images, data.labels = data.images[:count], data.labels[:count]
        return training, held_out

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cifar_style, "load_data", few)
        patch.setattr(cifar_style, "ResNet", lambda: NET(width=4))
        patch.setattr(cifar_style, "GOAL", 0.0)
        yield


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The folder of a run from the first epoch to the last."""
    out = tmp_path_factory.mktemp("whole")
    assert cifar_style.main([*OPTIONS, "--out", str(out)]) == 0
    return out


def test_it_trains_in_one_program_and_leaves_a_picture_and_curves(whole):
    history = nn.load(whole / "checkpoint.pt")["history"]
    assert len(history["losses"]) == 9 and len(history["held_out"]) == 3
    assert np.isfinite(history["losses"]).all() and history["losses"][-1] < history["losses"][0]
    assert max(history["rates"]) == pytest.approx(0.01, rel=0.1) and history["rates"][-1] < 1e-3
    assert cifar_style.train_step.compiled._cache_size() == 1
    assert (whole / "curves.png").read_bytes()[:4] == b"\x89PNG"
    assert next(whole.glob("events.out.tfevents.*")).stat().st_size > 1000


def test_a_stopped_run_goes_on_with_the_same_steps(whole, tmp_path, monkeypatch):
    left = iter(range(2))
    remake = cifar_style.update_bn

    def stopped(*arguments):
        if next(left, None) is None:
            raise KeyboardInterrupt
        return remake(*arguments)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(cifar_style, "update_bn", stopped)
        cifar_style.main([*OPTIONS, "--out", str(tmp_path)])
    assert len(nn.load(tmp_path / "checkpoint.pt")["history"]["held_out"]) == 2
    assert cifar_style.main([*OPTIONS, "--resume", "--out", str(tmp_path)]) == 0
    one, other = (nn.load(folder / "checkpoint.pt") for folder in (whole, tmp_path))
    assert one["history"] == other["history"]
    for name, value in one["ema"].items():
        assert np.array_equal(np.asarray(value), np.asarray(other["ema"][name])), name


def test_augmentation_moves_and_erases():
    image = np.arange(64.0, dtype=np.float32).reshape(1, 8, 8) + 1
    made = [cifar_style.shift_and_erase(image, np.random.default_rng(seed)) for seed in range(40)]
    assert all(array.shape == image.shape for array in made) and (image == np.arange(64).reshape(1, 8, 8) + 1).all()
    middles = {array[0, 4, 4] for array in made} - {0}
    assert middles == {image[0, 4 + i, 4 + j] for i in (-1, 0, 1) for j in (-1, 0, 1)}
    assert any((array[:, 1:7, 1:7] == 0).any() for array in made)


def test_float32_and_no_workers(tmp_path):
    assert cifar_style.main([*OPTIONS, "--epochs", "1", "--no-autocast", "--workers", "0", "--out", str(tmp_path)]) == 0

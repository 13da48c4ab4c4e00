"""TensorBoard's writer takes arrays and boxes; tensorboardX is the one that needs no torch."""

import struct

import jax.numpy as jnp
import numpy as np
import pytest

import jaxnn as nn

tensorboard = pytest.importorskip("tensorboardX", reason="tensorboardX is no dependency")


def events(folder):
    """The summaries in the files of a folder: records of a length, its checksum, data, its checksum."""
    from tensorboardX.proto.event_pb2 import Event

    for path in sorted(folder.iterdir()):
        rest = path.read_bytes()
        while rest:
            (length,) = struct.unpack("<Q", rest[:8])
            event, rest = Event.FromString(rest[12 : 12 + length]), rest[16 + length :]
            yield from event.summary.value


def test_arrays_and_boxes_are_written(tmp_path):
    model = nn.Linear(3, 2)
    with tensorboard.SummaryWriter(str(tmp_path)) as writer:
        writer.add_scalar("loss", jnp.float32(1.5), 0)
        writer.add_scalar("half", jnp.bfloat16(2.5), 0)
        writer.add_scalar("box", nn.Parameter(np.float32(3.5)), 0)
        writer.add_image("image", jnp.zeros((3, 4, 4)), 0)
        for name, parameter in model.named_parameters():
            writer.add_histogram(name, parameter, 0)
            writer.add_histogram(f"array/{name}", parameter.value, 0)
    found = {value.tag: value for value in events(tmp_path)}
    assert [found[tag].simple_value for tag in ("loss", "half", "box")] == [1.5, 2.5, 3.5]
    for name, parameter in model.named_parameters():
        for histogram in (found[name].histo, found[f"array/{name}"].histo):
            assert histogram.num == parameter.numel()
            np.testing.assert_allclose(histogram.sum, np.asarray(parameter).sum(), rtol=1e-5)
    assert found["image"].image.width == 4

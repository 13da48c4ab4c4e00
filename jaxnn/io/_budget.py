"""What reading one file may cost: the one limit of everything that a file can ask for."""

from __future__ import annotations

from jaxnn.io.errors import CheckpointError

FREE = 1 << 26
PER_PICKLED_BYTE = 64
PER_STORED_BYTE = 4


class Budget:
    """Work and memory that a file has paid for with its own bytes.

    One unit is one byte of memory that is filled, or one step of about a nanosecond. Each byte of a pickle pays for
    the object that it describes (about 64 bytes, so those are not charged), and for as much again. Each byte that a
    tensor is stored in pays for four copies. What a pickle gets by naming a remembered value, copying it or looking it up,
    is charged. So time and memory are linear in the size of the file, whatever it says.

    Args:
        stored: how many bytes of tensors the file has.
    """

    __slots__ = ("left",)

    def __init__(self, stored: int = 0):
        self.left = FREE + PER_STORED_BYTE * stored

    def earn(self, pickled: int) -> None:
        """Count bytes of a pickle that were read."""
        self.left += PER_PICKLED_BYTE * pickled

    def spend(self, count: int) -> None:
        """Pay for `count` bytes or steps before they are taken.

        Raises:
            CheckpointError: more than the file has paid for.
        """
        self.left -= count
        if self.left < 0:
            raise CheckpointError(
                "the file asks for more work or memory than its size justifies (it copies or looks up one value again "
                f"and again: {-self.left:,} units too many)"
            )

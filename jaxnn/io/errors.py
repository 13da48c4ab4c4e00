"""The error of everything that reads files."""


class CheckpointError(ValueError):
    """A file that is broken, lies about itself, or asks for more than tensors and containers."""

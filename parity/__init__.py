"""Parity: the suite that holds jaxnn against PyTorch, and a tool of its own, ``python -m parity``.

Cases come from PyTorch's own test databases (``parity.cases``). Truth is PyTorch in float64; jaxnn's error is
judged next to PyTorch's own error at the same precision (``parity.compare``).
"""

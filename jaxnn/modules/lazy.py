"""Lazy modules: the number of input features is taken from the first input.

The first call makes the parameters (with torch's draws), and the module becomes its ordinary class: in eager mode, and
under ``nn.jit``, which brings the new structure back out. Loading a state_dict makes them too.
"""

from __future__ import annotations

from typing import Any

from jaxnn.boxes.uninitialized import UninitializedBuffer, UninitializedParameter, _Uninitialized
from jaxnn.core.module import Module


class LazyModuleMixin(Module):
    """Makes a module's first call infer what its constructor left out.

    A lazy class holds `UninitializedParameter` and `UninitializedBuffer`, writes ``initialize_parameters(*inputs)``,
    which materializes them, and names the class it becomes in ``cls_to_become``.

    Follows ``torch.nn.modules.lazy.LazyModuleMixin``.
    """

    cls_to_become: type[Module] | None = None

    def has_uninitialized_params(self) -> bool:
        """Whether any of the module's own parameters or buffers has no shape yet."""
        boxes = (*self._parameters.values(), *self._buffers.values())
        return any(isinstance(box, _Uninitialized) for box in boxes)

    def initialize_parameters(self, *args: Any, **kwargs: Any) -> None:
        """Materialize the parameters and buffers from the first call's inputs."""
        raise NotImplementedError(f"initialize_parameters is not implemented for {type(self).__name__}")

    def _infer_parameters(self, module: Any, args: tuple[Any, ...], kwargs: dict[str, Any] | None = None) -> None:
        self.initialize_parameters(*args, **(kwargs or {}))
        if self.has_uninitialized_params():
            raise RuntimeError(f"module {self._get_name()} has not been fully initialized")
        if self.cls_to_become is not None:
            self.__class__ = self.cls_to_become  # type: ignore[assignment]

    def _run(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        self._infer_parameters(self, args, kwargs)
        return Module._run(self, args, kwargs)


class _LazyLayer(LazyModuleMixin):
    """A layer of jaxnn with its first constructor argument, the number of input features, left out."""

    size_name: str

    def _make_lazy(self, *args: Any, **kwargs: Any) -> None:
        """Leave the shapes of an instance that was made for no features open; keep the arguments for later."""
        self._rest = args, tuple(sorted(kwargs.items()))
        dtype, device = kwargs.get("dtype"), kwargs.get("device")
        for name, box in self._parameters.items():
            if box is not None:
                self._parameters[name] = UninitializedParameter(dtype=dtype, device=device)
        for name, box in self._buffers.items():
            if box is not None and name != "num_batches_tracked":
                self._buffers[name] = UninitializedBuffer(dtype=dtype, device=device)

    def reset_parameters(self) -> None:
        """Draw the parameters again, once they are there."""
        if not self.has_uninitialized_params() and getattr(self, self.size_name) != 0:
            super().reset_parameters()  # type: ignore[misc]

    def _infer_size(self, input: Any) -> int:
        raise NotImplementedError

    def initialize_parameters(self, input: Any, *args: Any, **kwargs: Any) -> None:
        """Take the number of features from `input`; draw what is not there yet, as the ordinary class does."""
        size = self._infer_size(input)
        open_boxes = {
            name: box
            for name, box in (*self._parameters.items(), *self._buffers.items())
            if isinstance(box, _Uninitialized)
        }
        if open_boxes:
            rest, options = self._rest
            assert self.cls_to_become is not None
            first = next(
                iter(open_boxes.values())
            )  # not what the constructor said, where .half() or .to() came between
            ordinary = self.cls_to_become(size, *rest, **{**dict(options), "dtype": first.dtype, "device": first.place})
            made = ordinary._parameters | ordinary._buffers
            for name, box in open_boxes.items():
                box.materialize(made[name].shape)
                box.value = made[name].value
        setattr(self, self.size_name, size)

    def _infer_parameters(self, module: Any, args: tuple[Any, ...], kwargs: dict[str, Any] | None = None) -> None:
        super()._infer_parameters(module, args, kwargs)
        del self._rest

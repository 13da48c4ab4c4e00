"""Well-known networks as model files: each reads as its PyTorch original does, and takes the original's weights.

    from models.resnet import resnet50
    model = resnet50()
    model.load_state_dict(nn.load("resnet50-0676ba61.pth"))

What differs from a PyTorch file are the imports and the calls on tensors. ``tests/examples`` runs the same files
with ``torch.nn`` in place of ``jaxnn``, and holds the names to those recorded from the originals.
"""

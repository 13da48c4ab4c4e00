"""From PyTorch source to jaxnn source: ``python -m jaxnn port model.py -o model_jax.py``."""

"""higfa: hierarchically guided diffusion pictures for fine-grained classifiers."""

__version__ = "0.1.0"

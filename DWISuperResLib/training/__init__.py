"""Headless training: configuration, data pipeline, Lightning module, and the run that ties them together.

`train` is in `training.run`, apart from the configuration, which is checked before PyTorch and Lightning are loaded.
"""

from .configuration import Configuration, load_configuration, validated

__all__ = ["Configuration", "load_configuration", "validated"]

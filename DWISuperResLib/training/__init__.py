"""Headless training: configuration, data pipeline, Lightning module, and the run that ties them together."""

from .configuration import Configuration, load_configuration, validated
from .run import train

__all__ = ["Configuration", "load_configuration", "train", "validated"]

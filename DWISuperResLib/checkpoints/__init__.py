"""A trained network as one file: its weights, and a card that says what they are."""

from .card import Card, describe
from .files import (
    Checkpoint,
    import_fastai,
    load_checkpoint,
    read_card,
    resolve,
    save_checkpoint,
    shipped_checkpoints,
)

__all__ = [
    "Card",
    "Checkpoint",
    "describe",
    "import_fastai",
    "load_checkpoint",
    "read_card",
    "resolve",
    "save_checkpoint",
    "shipped_checkpoints",
]

"""What a run is resumed from, one file an epoch; neither a kill nor a full disk spoils the one that is there."""

from __future__ import annotations

import io as memory
import math
import os
from pathlib import Path
from typing import Any

import lightning
import torch
from lightning.fabric.plugins import TorchCheckpointIO
from lightning.pytorch.callbacks import Checkpoint

from ..errors import InputError, ProcessingError
from ..io import output_files

LAST, BEST = "last.ckpt", "best.ckpt"
STATE = ("state_dict", "optimizer_states", "callbacks", "loops", "epoch", "global_step", "progress")
"""What a file holds that a run is resumed from."""


class WholeFiles(TorchCheckpointIO):
    """Write Lightning's checkpoints beside their place and rename them, when all bytes are on the disk.

    Lightning itself writes them into the system's temporary folder and copies them, from another file system over the
    file that is there.
    """

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | os.PathLike[str], storage_options: Any = None
    ) -> None:
        """Write; ProcessingError, with the old file as it was, where that fails."""
        # Into memory first: torch reports an error of the disk as one of its own.
        content = memory.BytesIO()
        torch.save(checkpoint, content)
        with output_files([Path(path)], overwrite=True) as (temporary,), open(temporary, "wb") as file:
            file.write(content.getbuffer())
            file.flush()
            os.fsync(file.fileno())


class Saving(Checkpoint):
    """Save the state after every epoch as `last.ckpt`, and the best as `best.ckpt`.

    Parameters
    ----------
    folder : Path
    epochs : int
        Of the schedule.
    monitor : str, optional
        The score that says what is best; None where nothing is validated.
    higher_is_better : bool
    every : int
        Epochs between validations.
    """

    def __init__(self, folder: Path, epochs: int, monitor: str | None, higher_is_better: bool, every: int) -> None:
        self.folder, self.epochs, self.monitor, self.every = folder, epochs, monitor, every
        self.sign = 1 if higher_is_better else -1
        self.best: float | None = None
        self.saved = 0

    def on_train_epoch_end(self, trainer: lightning.Trainer, module: lightning.LightningModule) -> None:
        """Save; the last after the best, which it remembers."""
        epochs = trainer.current_epoch + 1
        before = self.best, self.saved
        try:
            if self.monitor is not None and epochs % self.every == 0:
                score = float(trainer.callback_metrics[self.monitor])
                better = math.isfinite(score) and (self.best is None or self.sign * (score - self.best) > 0)
                if trainer.strategy.reduce_boolean_decision(better):
                    self.best = score
                    trainer.save_checkpoint(self.folder / BEST)
            self.saved = epochs
            trainer.save_checkpoint(self.folder / LAST)
        except ProcessingError as error:
            self.best, self.saved = before
            raise ProcessingError(f"{str(error).rstrip('.')}; {self.told}.") from error

    @property
    def told(self) -> str:
        """What of the run is on the disk, and how to go on, for people."""
        if not self.saved:
            return "no epoch was finished, so there is nothing to resume"
        path = self.folder / LAST
        return f"the state after epoch {self.saved} of {self.epochs} is in {path}: resume=true goes on from there"

    def state_dict(self) -> dict[str, Any]:
        """Of the callback."""
        return {"best": self.best, "saved": self.saved}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Of the callback."""
        self.best, self.saved = state_dict["best"], state_dict["saved"]


def read_state(path: Path) -> dict[str, Any]:
    """What `Saving` has written.

    Raises
    ------
    InputError
        If the file is cut, empty, or of another program.
    """
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # bytes that are no such file can make torch and pickle raise anything
        raise _damaged(
            path, "it is cut, or not what training saves" if path.stat().st_size else "it is empty"
        ) from error
    missing = [name for name in STATE if name not in state] if isinstance(state, dict) else list(STATE)
    if missing or not isinstance(state["callbacks"], dict) or Saving.__qualname__ not in state["callbacks"]:
        raise _damaged(path, f"it lacks {', '.join(missing) or 'what this program saves'}")
    return state


def check_state(path: Path, module: lightning.LightningModule) -> None:
    """Raise InputError unless a file holds the state of a module of the same parameters."""
    weights = read_state(path)["state_dict"]
    expected = {name: tuple(value.shape) for name, value in module.state_dict().items()}
    found = {name: tuple(value.shape) for name, value in weights.items()} if isinstance(weights, dict) else {}
    if found != expected:
        raise _damaged(path, "its weights are those of another network or loss")


def _damaged(path: Path, reason: str) -> InputError:
    return InputError(
        f"{path} is no state that this run can be resumed from: {reason}; put a whole one in its place, or remove "
        "it to begin anew."
    )

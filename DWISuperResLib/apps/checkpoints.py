"""Commands on checkpoints: list, info, import."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import ClassVar

from ..progress import Reporter
from .options import Common, Writing, argument, option


@dataclass(frozen=True, kw_only=True)
class List(Common):
    """List the checkpoints that ship."""

    example: ClassVar[str] = "checkpoints list"

    def __call__(self, report: Reporter) -> None:
        """One line each."""
        from ..checkpoints import read_card, shipped_checkpoints

        cards = {name: read_card(name) for name in shipped_checkpoints()}
        lines = [
            f"{name:24} {card.task:18} x{', x'.join(map(str, card.scales)) or '-':12} {card.architecture}"
            for name, card in cards.items()
        ]
        checkpoints = [
            {"name": name, "task": card.task, "scales": card.scales, "architecture": card.architecture}
            for name, card in cards.items()
        ]
        report.result("\n".join(lines) or "No checkpoint ships with this copy of the library.", checkpoints=checkpoints)


@dataclass(frozen=True, kw_only=True)
class Info(Common):
    """Show a checkpoint's card."""

    example: ClassVar[str] = "checkpoints info default"
    checkpoint: str = argument("name of a shipped checkpoint, or a file")

    def __call__(self, report: Reporter) -> None:
        """Without loading its weights."""
        from ..checkpoints import describe, read_card

        card = read_card(self.checkpoint)
        report.result(describe(card), card=asdict(card))


@dataclass(frozen=True, kw_only=True)
class Import(Writing):
    """Convert fastai weights of the paper's network."""

    example: ClassVar[str] = "checkpoints import model.pth model.safetensors"
    file: str = argument(".pth state dict of fastai")
    output: str = argument(".safetensors")
    scales: tuple[int, ...] = option("in-plane factors it was trained for", (2,), metavar="N")
    name: str | None = option("for the card (default: the file's)", None)
    licence: str = option("for the card", "")
    provenance: str = option("for the card: where the weights come from", "")

    def __call__(self, report: Reporter) -> None:
        """Read without running what the file may hold."""
        report.status("Loading PyTorch")
        from ..checkpoints import describe, import_fastai

        card = import_fastai(
            self.file, self.output, scales=self.scales, name=self.name,
            licence=self.licence, provenance=self.provenance, overwrite=self.overwrite,
        )  # fmt: skip
        report.result(f"Wrote {self.output}\n{describe(card)}", output=self.output)

"""Commands on checkpoints: list, info, import, calibrate."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import ClassVar

from ..errors import InputError
from ..inference.options import InferenceOptions
from ..progress import Reporter
from .options import Common, Writing, argument, option
from .scans import SCALE_HELP, SCALES, read


@dataclass(frozen=True, kw_only=True)
class List(Common):
    """List the checkpoints that ship."""

    example: ClassVar[str] = "checkpoints list"

    def __call__(self, report: Reporter) -> None:
        """One line each."""
        from ..checkpoints import read_card, shipped_checkpoints

        cards = {name: read_card(name) for name in shipped_checkpoints()}
        lines = [
            f"{name:24} {card.task:18} {'x' + (card.served_text or '-').replace(', ', ', x'):16} {card.architecture}"
            for name, card in cards.items()
        ]
        checkpoints = [
            {"name": name, "task": card.task, "factors": card.factors, "architecture": card.architecture}
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


@dataclass(frozen=True, kw_only=True)
class Calibrate(Writing):
    """Make a checkpoint's uncertainty as large as its errors on a scan that it was not trained on."""

    example: ClassVar[str] = "checkpoints calibrate default held_out.nii.gz calibrated.safetensors --scale 2"
    checkpoint: str = argument("name of a shipped checkpoint, or a file")
    input: str = argument("NIfTI or NRRD; is degraded, super-resolved and compared with itself")
    output: str = argument(".safetensors, with the factor on its card")
    scale: str = option(SCALE_HELP, "2", metavar=SCALES)
    half: bool = option("store the weights as float16", False)
    bval: str | None = option("b-values, when not beside the image", None, metavar="FILE")
    bvec: str | None = option("gradient directions, when not beside the image", None, metavar="FILE")
    inference: InferenceOptions = InferenceOptions()

    def __call__(self, report: Reporter) -> None:
        """By `evaluation.reliability`."""
        dwi = read(self.input, report, self.bval, self.bvec)
        report.status("Loading the network")
        from ..checkpoints import load_checkpoint, save_checkpoint
        from ..evaluation.evaluate import evaluate

        checkpoint = load_checkpoint(self.checkpoint)
        options = {**asdict(self.inference), "ensemble": True}
        evaluation = evaluate(
            dwi, self.scale, [self.checkpoint], methods=(), distances=(), progress=report.part(0, 0.9), **options
        )
        found = evaluation.reliability.get(checkpoint.card.name)
        if found is None or not found.factor:
            raise InputError(
                f"{self.checkpoint} cannot be calibrated on {self.input}: its uncertainty, or its errors beyond the "
                "noise, are zero there; give a larger scan, or one with less noise."
            )
        factor = round(checkpoint.card.uncertainty_factor * found.factor, 3)
        card = replace(checkpoint.card, uncertainty_factor=factor)
        save_checkpoint(self.output, checkpoint.weights, card, half=self.half, overwrite=self.overwrite)
        report(1.0, "Done")
        within = (
            f"{found.coverage[1]:.1%} of the errors lay within one predicted deviation, now {found.calibrated[1]:.1%}"
        )
        report.result(f"Wrote {self.output} with the factor {factor:g}: {within}", output=self.output, factor=factor)

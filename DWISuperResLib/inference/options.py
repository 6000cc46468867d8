"""How a network is run, declared once for Python, the command line and Slicer: standard library only."""

from __future__ import annotations

from dataclasses import dataclass, field, fields


@dataclass(frozen=True)
class InferenceOptions:
    """Options of `predict.super_resolve`; each is a flag of the command line of the same name.

    Examples
    --------
    >>> InferenceOptions(device="cpu", ensemble=True).as_arguments()
    ['--device', 'cpu', '--ensemble']
    """

    device: str = field(default="auto", metadata={"help": "auto, cpu, cuda or mps; auto takes a GPU if there is one"})
    precision: str = field(
        default="auto", metadata={"help": "auto, fp32, bf16 or fp16; auto takes bf16 where the device computes in it"}
    )
    axis: str | int | None = field(default=None, metadata={"help": "slice axis i, j or k, when the header misleads"})
    ensemble: bool = field(
        default=False, metadata={"help": "test-time augmentation: average over flips and rotations (8x the time)"}
    )
    consistent: bool = field(
        default=False, metadata={"help": "data consistency: make the result, degraded again, equal the input"}
    )
    native: bool = field(
        default=False,
        metadata={
            "help": "take a scan that was interpolated before down to the matrix it holds; --scale counts from it"
        },
    )
    batch_size: int | None = field(default=None, metadata={"help": "tiles at a time (default: what fits)"})

    def as_arguments(self) -> list[str]:
        """The command line's arguments that say the same; defaults are left out."""
        arguments: list[str] = []
        for option in fields(self):
            value, flag = getattr(self, option.name), f"--{option.name.replace('_', '-')}"
            if value is True:
                arguments.append(flag)
            elif value != option.default:
                arguments += [flag, str(value)]
        return arguments

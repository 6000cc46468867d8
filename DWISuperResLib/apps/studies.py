"""One command for every registered study, made of its options."""

from __future__ import annotations

from dataclasses import dataclass, field, make_dataclass
from typing import ClassVar

from ..errors import InputError
from ..progress import Reporter
from ..studies import STUDIES, Study, StudyOptions
from .options import Common


@dataclass(frozen=True, kw_only=True)
class StudyCommand(Common):
    """Repeat an experiment of the papers."""

    cancelled: ClassVar[str] = "Cancelled; the study goes on from here when started again."
    registered: ClassVar[Study]
    study: StudyOptions

    def __call__(self, report: Reporter) -> None:
        """Run what is not done yet."""
        if not self.study.data:
            raise InputError("There are no scans; name DWI files, folders or patterns before the options.")
        report.status("Loading PyTorch")
        page = self.registered.run(self.study, progress=report)
        report.result(f"Wrote {page}", report=str(page))


def study_command(name: str) -> type[StudyCommand]:
    """The command of a registered study: its options are the flags."""
    study = STUDIES.find(name)
    return make_dataclass(
        "StudyCommand",
        [("study", study.options, field(metadata={"positional": ("data",)}))],
        bases=(StudyCommand,),
        namespace={
            "__doc__": study.summary[0].upper() + study.summary[1:],
            "example": f"study {name} scans/*.nii.gz --output {name}",
            "registered": study,
        },
        frozen=True,
        kw_only=True,
    )

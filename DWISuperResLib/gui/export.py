"""The scene's comparison as files: maps, statistics and report."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import slicer
import slicer.util
from slicer.i18n import tr as _

from .. import mrml
from ..errors import InputError


def check_export(folder: Path) -> None:
    """InputError where there is nothing to write, or nowhere to write it."""
    if not mrml.comparison_nodes():
        raise InputError(_("There is nothing to export yet; compare two volumes first."))
    if folder == Path() or not folder.is_dir():
        text = _("The folder {folder} does not exist; choose where to export to.")
        raise InputError(text.format(folder=repr(str(folder))))


def export_comparison(folder: Path) -> list[Path]:
    """Write maps (NIfTI, 0 outside of the mask), statistics.tsv and report.html; the paths written."""
    from ..io import output_files, write_image

    nodes = mrml.comparison_nodes()
    written = []
    for role, node in nodes.items():
        if node.GetClassName() == "vtkMRMLScalarVolumeNode":
            written.append(folder / f"{role}.nii.gz")
            array = np.nan_to_num(slicer.util.arrayFromVolume(node).transpose(2, 1, 0))
            write_image(array, mrml.ijk_to_ras(node), written[-1], overwrite=True)
    texts = [folder / "statistics.tsv", folder / "report.html"]
    with output_files(texts, overwrite=True) as (table, report):
        with table.open("w", encoding="utf-8", newline="") as file:
            csv.writer(file, delimiter="\t", lineterminator="\n").writerows(mrml.statistics_rows())
        report.write_text(nodes["report"].GetText(), encoding="utf-8")
    return [*written, *texts]

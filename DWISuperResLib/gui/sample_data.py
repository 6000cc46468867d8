"""Sample scans in Slicer's Sample Data module: phantoms made on the spot, so that nothing is downloaded."""

from __future__ import annotations

from slicer.i18n import tr as _

from .paths import resource

CATEGORY = "DWISuperRes"


def register_sample_data() -> None:
    """Offer the phantom in the Sample Data module."""
    import SampleData

    logic = SampleData.SampleDataLogic
    logic.registerCustomSampleDataCategory(CATEGORY, title=_("DWI super-resolution"))
    logic.registerCustomSampleDataSource(
        category=CATEGORY,
        sampleName="DWISuperResPhantom",
        thumbnailFileName=resource("Icons/DWISuperResPhantom.png"),
        customDownloader=make_phantom,
        uris=[],  # nothing is downloaded; without lists Slicer 5.12 takes the length of None
        fileNames=[],
        nodeNames=[],
    )


def make_phantom(_source=None) -> list:
    """A numerical brain phantom (2 b0 and 30 directions at b = 1000 s/mm², SNR 40) in a new DWI node."""
    import slicer.util

    from .. import mrml
    from ..phantoms import phantom

    with slicer.util.WaitCursor():
        dwi = phantom(supersampling=2, shells=((0, 2), (1000, 30)))
    return [mrml.add_dwi_node(dwi, _("DWI phantom"))]

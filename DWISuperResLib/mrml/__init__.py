"""MRML nodes: scans and maps in the scene, how they are displayed, the comparison layout, tables and plots.

Runs in the Slicer process (also without a main window), so it needs only numpy, VTK and MRML; no Qt.
"""

from .comparison import comparison_nodes, show_map, statistics_rows, update_comparison
from .layout import SLICE_VIEWS, show_comparison_layout
from .masks import mask_array
from .volumes import (
    add_dwi_node,
    describe,
    dwi_from_node,
    gradient_table,
    ijk_to_ras,
    read_dwi_nrrd,
    scale_between,
    size_in_bytes,
    write_dwi_nrrd,
)

__all__ = [
    "SLICE_VIEWS",
    "add_dwi_node",
    "comparison_nodes",
    "describe",
    "dwi_from_node",
    "gradient_table",
    "ijk_to_ras",
    "mask_array",
    "read_dwi_nrrd",
    "scale_between",
    "show_comparison_layout",
    "show_map",
    "size_in_bytes",
    "statistics_rows",
    "update_comparison",
    "write_dwi_nrrd",
]

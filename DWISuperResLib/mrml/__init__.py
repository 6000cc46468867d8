"""MRML nodes: scans and maps in the scene, how they are displayed, the comparison layout, tables and plots.

Runs in the Slicer process (also without a main window), so it needs only numpy, VTK and MRML; no Qt.
"""

from .comparison import (
    COLOUR_FA,
    centre_of_mask,
    comparison_nodes,
    lay_test_over_reference,
    map_names,
    picked_position,
    show_map,
    statistics_rows,
    update_comparison,
)
from .layout import (
    AGREEMENT_VIEW,
    SLICE_VIEWS,
    jump_views_to,
    show_comparison_layout,
    turn_views_to,
)
from .masks import mask_array
from .nodes import DWI_CLASS, INPUT_REFERENCE, folders_with_scans, scans
from .results import attach_uncertainty, show_uncertainty_overlay, uncertainty_of, update_self_checks
from .volumes import (
    FEWEST_VOLUMES,
    add_dwi_node,
    describe,
    dwi_from_node,
    gradient_table,
    header,
    ijk_to_ras,
    read_dwi_nrrd,
    scale_between,
    size_in_bytes,
    volume_from_node,
    write_dwi_nrrd,
)

__all__ = [
    "AGREEMENT_VIEW",
    "COLOUR_FA",
    "DWI_CLASS",
    "FEWEST_VOLUMES",
    "INPUT_REFERENCE",
    "SLICE_VIEWS",
    "add_dwi_node",
    "attach_uncertainty",
    "centre_of_mask",
    "comparison_nodes",
    "describe",
    "dwi_from_node",
    "folders_with_scans",
    "gradient_table",
    "header",
    "ijk_to_ras",
    "jump_views_to",
    "lay_test_over_reference",
    "map_names",
    "mask_array",
    "picked_position",
    "read_dwi_nrrd",
    "scale_between",
    "scans",
    "show_comparison_layout",
    "show_map",
    "show_uncertainty_overlay",
    "size_in_bytes",
    "statistics_rows",
    "turn_views_to",
    "uncertainty_of",
    "update_comparison",
    "update_self_checks",
    "volume_from_node",
    "write_dwi_nrrd",
]

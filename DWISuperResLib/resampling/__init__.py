"""Where voxels lie, and how signal moves between grids."""

MAX_FACTOR = 5
"""Of a scale along an axis: beyond, an interpolated scan is the same picture in more memory."""

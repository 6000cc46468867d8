"""Where voxels lie and how signal moves between grids."""

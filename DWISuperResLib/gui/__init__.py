"""What the Slicer panel is made of: parameters, sections of the panel, the logic, and the child process that computes.

`import DWISuperResLib.gui` itself loads nothing, so that the child can run `DWISuperResLib.gui.worker`.
"""

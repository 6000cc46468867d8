"""A minimal host that runs the real Slicer module outside of Slicer: real MRML (slicer-core), real Qt (PySide6).

It stands in for what only the Slicer application has: PythonQt's manners, the ctk and qMRML widgets, the parameter node
wrapper, the scripted module base classes and `slicer.app`. Not covered: PythonQt's ownership rules, real views, the
module factory and packaging; `DWISuperResTest` covers those inside Slicer.
"""

from .host import Host, NoDependencies, start

__all__ = ["Host", "NoDependencies", "start"]

"""The base classes that `slicer.ScriptedLoadableModule` gives a scripted module."""

import unittest
from pathlib import Path

import slicer


class ScriptedLoadableModule:
    def __init__(self, parent):
        self.parent = parent
        self.moduleName = type(self).__name__


class ScriptedLoadableModuleWidget:
    def __init__(self, parent=None):
        import qt

        self.moduleName = type(self).__name__.removesuffix("Widget")
        self.parent = parent or slicer.qMRMLWidget()
        if self.parent.layout() is None:
            self.parent.setLayout(qt.QVBoxLayout())
        self.parent.isEntered = True
        self.layout = self.parent.layout()
        if not parent:
            self.setup()

    def setup(self):
        pass

    def resourcePath(self, name):
        return str(Path(slicer.util.modulePath(self.moduleName)).parent / "Resources" / name)

    def onReload(self):
        slicer.util.reloadScriptedModule(self.moduleName)


class ScriptedLoadableModuleLogic:
    def __init__(self, parent=None):
        self.moduleName = type(self).__name__.removesuffix("Logic")

    def getParameterNode(self):
        node = slicer.mrmlScene.GetSingletonNode(self.moduleName, "vtkMRMLScriptedModuleNode")
        if node is None:
            node = slicer.vtkMRMLScriptedModuleNode()
            node.SetSingletonTag(self.moduleName)
            node.SetName(self.moduleName)
            node = slicer.mrmlScene.AddNode(node)
        node.SetAttribute("ModuleName", self.moduleName)
        return node


class ScriptedLoadableModuleTest(unittest.TestCase):
    def delayDisplay(self, message, *_):
        pass

"""Stand-ins for the ctk and qMRML widgets that the module's .ui names, with the properties that it sets."""

import slicer
from PySide6 import QtCore, QtGui, QtWidgets


class qMRMLWidget(QtWidgets.QWidget):
    def setMRMLScene(self, scene):
        for child in self.findChildren(qMRMLNodeComboBox):
            child.setMRMLScene(scene)


class qMRMLNodeComboBox(QtWidgets.QComboBox):
    """Lists the scene's nodes of its types; follows nodes that come and go."""

    currentNodeChanged = QtCore.Signal(object)

    def __init__(self, parent=None):
        super().__init__(parent)
        self._types, self._ids, self._scene = [], [], None
        self._flags = {"noneEnabled": False, "addEnabled": True, "removeEnabled": True, "renameEnabled": False}
        self._none = "None"
        self.setSizeAdjustPolicy(QtWidgets.QComboBox.AdjustToMinimumContentsLengthWithIcon)  # long names are cut
        self.setMinimumContentsLength(8)
        self.currentIndexChanged.connect(lambda _: self.currentNodeChanged.emit(self.currentNode()))

    def _set_types(self, types):
        self._types = list(types)
        self._fill()

    def _set_none(self, text):
        self._none = text
        self._fill()

    def _flag(name):
        def read(self):
            return self._flags[name]

        def write(self, value):
            self._flags[name] = value
            self._fill()

        return QtCore.Property(bool, read, write)

    nodeTypes = QtCore.Property("QStringList", lambda self: self._types, _set_types)
    noneDisplay = QtCore.Property(str, lambda self: self._none, _set_none)
    noneEnabled, addEnabled = _flag("noneEnabled"), _flag("addEnabled")
    removeEnabled, renameEnabled = _flag("removeEnabled"), _flag("renameEnabled")

    def setMRMLScene(self, scene):
        self._scene = scene
        events = (scene.NodeAddedEvent, scene.NodeRemovedEvent, scene.EndCloseEvent, scene.EndImportEvent)
        tags = [scene.AddObserver(event, lambda *_: self._fill()) for event in events]
        self.destroyed.connect(lambda *_: [scene.RemoveObserver(tag) for tag in tags])
        self._fill()

    def _fill(self):
        current = self.currentNode() if self._scene else None
        self._ids = [None] if self._flags["noneEnabled"] else []
        nodes = slicer.util.getNodesByClass("vtkMRMLNode", self._scene) if self._scene else []
        self._ids += [n.GetID() for n in nodes if n.GetClassName() in self._types and not n.GetHideFromEditors()]
        self.blockSignals(True)
        self.clear()
        for node_id in self._ids:
            self.addItem(self._scene.GetNodeByID(node_id).GetName() if node_id else self._none)
        self.blockSignals(False)
        self.setCurrentNode(current)
        if self.currentNode() is not current:
            self.currentNodeChanged.emit(self.currentNode())

    def currentNode(self):
        index = QtWidgets.QComboBox.currentIndex.fget(self)
        node_id = self._ids[index] if 0 <= index < len(self._ids) else None
        return self._scene.GetNodeByID(node_id) if node_id else None

    def setCurrentNode(self, node):
        node_id = node.GetID() if node else None
        self.setCurrentIndex(self._ids.index(node_id) if node_id in self._ids else -1)


class ctkCollapsibleButton(QtWidgets.QWidget):
    def __init__(self, parent=None):
        super().__init__(parent)
        self._text, self._collapsed = "", False
        self.setContentsMargins(0, 26, 0, 0)

    def _set_text(self, text):
        self._text = text

    def _set_collapsed(self, collapsed):
        self._collapsed = collapsed
        self.setMaximumHeight(26 if collapsed else 16777215)

    text = QtCore.Property(str, lambda self: self._text, _set_text)
    collapsed = QtCore.Property(bool, lambda self: self._collapsed, _set_collapsed)

    def paintEvent(self, _event):
        painter = QtGui.QPainter(self)
        painter.fillRect(0, 2, self.width, 22, QtGui.QColor("#d5d9de"))
        painter.drawText(8, 18, ("▸ " if self._collapsed else "▾ ") + self._text)
        painter.end()


class ctkPathLineEdit(QtWidgets.QLineEdit):
    currentPathChanged = QtCore.Signal(str)
    Dirs, Writable = 1, 32

    def __init__(self, parent=None):
        super().__init__(parent)
        self._filters = 0
        self.textChanged.connect(self.currentPathChanged.emit)

    currentPath = QtCore.Property(str, lambda self: self.property("text"), lambda self, v: self.setText(v))
    filters = QtCore.Property(int, lambda self: self._filters, lambda self, v: setattr(self, "_filters", v))


CTK = (ctkCollapsibleButton, ctkPathLineEdit)
QMRML = (qMRMLWidget, qMRMLNodeComboBox)

"""A small `slicer.parameterNodeWrapper`: typed parameters on a vtkMRMLScriptedModuleNode, bound to widgets.

Knows the types and widgets that the module uses, and refuses others, as Slicer's does.
"""

import enum
import pathlib
import typing
from dataclasses import dataclass

import slicer
import vtk


@dataclass
class WithinRange:
    minimum: float
    maximum: float


def _split(annotated):
    origin = typing.get_origin(annotated)
    if origin is typing.Annotated:
        base, *extra = typing.get_args(annotated)
        return base, extra
    return annotated, []


def _node_types(kind):
    options = [option for option in typing.get_args(kind) or (kind,) if option is not type(None)]
    named = [o.__name__ for o in options if isinstance(o, type) and o.__name__.startswith("vtkMRML")]
    return named if len(named) == len(options) else []


def _write(node, name, kind, value):
    if _node_types(kind):
        node.SetNodeReferenceID(name, value.GetID() if value else None)
    elif isinstance(value, enum.Enum):
        node.SetParameter(name, value.name)
    elif kind is pathlib.Path:
        node.SetParameter(name, value.as_posix())
    elif type(value) is kind:
        node.SetParameter(name, str(value))
    else:
        raise ValueError(f"{name} takes {kind.__name__}, got {value!r}")


def _read(node, name, kind):
    if _node_types(kind):
        return node.GetNodeReference(name)
    text = node.GetParameter(name)
    if issubclass(kind, enum.Enum):
        return kind[text]
    return text == "True" if kind is bool else kind(text)


def parameterNodeWrapper(cls):
    hints = typing.get_type_hints(cls, include_extras=True)
    defaults = {name: getattr(cls, name, None) for name in hints}

    def make_property(name, kind, extra):
        def write(self, value):
            for limit in extra:
                if not limit.minimum <= value <= limit.maximum:
                    raise ValueError(f"{name} must lie within {limit}")
            _write(self.parameterNode, name, kind, value)

        return property(lambda self: _read(self.parameterNode, name, kind), write)

    def init(self, node):
        self.parameterNode = node
        self._guis = {}
        for name, hint in hints.items():
            kind, _ = _split(hint)
            if not _node_types(kind) and not node.GetParameter(name):
                initial = next(iter(kind)) if issubclass(kind, enum.Enum) else kind()
                _write(node, name, kind, initial if defaults[name] is None else defaults[name])

    for name, hint in hints.items():
        setattr(cls, name, make_property(name, *_split(hint)))
    cls.__init__ = init
    cls.allParameters = hints
    for method in (connectGui, connectParametersToGui, disconnectGui):
        setattr(cls, method.__name__, method)
    cls.AddObserver = lambda self, *a: self.parameterNode.AddObserver(*a)
    cls.RemoveObserver = lambda self, tag: self.parameterNode.RemoveObserver(tag)
    return cls


def connectGui(self, gui):
    import qt

    bound = {
        w.property("SlicerParameterName"): w for w in gui.findChildren(qt.QWidget) if w.property("SlicerParameterName")
    }
    return connectParametersToGui(self, bound)


def connectParametersToGui(self, mapping):
    connectors = {}
    for name, widget in mapping.items():
        kind, extra = _split(self.allParameters[name])
        connectors[name] = widget if isinstance(widget, GuiConnector) else _Connector(widget, kind, extra)
    state = {"updating": False}

    def refresh(*_):
        if state["updating"]:
            return
        state["updating"] = True
        try:
            for name, connector in connectors.items():
                connector.write(getattr(self, name))
        finally:
            state["updating"] = False

    def store(name, connector):
        def changed():
            if not state["updating"]:
                setattr(self, name, connector.read())

        return changed

    refresh()
    for name, connector in connectors.items():
        connector.onChanged(store(name, connector))
    tag = len(self._guis)
    self._guis[tag] = connectors, self.AddObserver(vtk.vtkCommand.ModifiedEvent, refresh)
    return tag


def disconnectGui(self, tag):
    connectors, observer = self._guis.pop(tag)
    self.RemoveObserver(observer)
    for connector in connectors.values():
        connector.onChanged(None)


class GuiConnector:
    """Adapts a widget to a value; `onChanged(None)` disconnects."""

    def __init__(self):
        self._callback = None

    def onChanged(self, callback):
        self._callback = callback
        if callback is None:
            self._disconnect()
        else:
            self._connect()

    def changed(self):
        if self._callback:
            self._callback()


class _Connector(GuiConnector):
    def __init__(self, widget, kind, extra):
        super().__init__()
        import ctk
        import qt

        self._widget, self._kind = widget, kind
        if type(widget) is qt.QCheckBox and kind is bool:
            self._signal, self._property = widget.stateChanged, "checked"
        elif (type(widget), kind) in ((qt.QSlider, int), (qt.QDoubleSpinBox, float)):
            self._signal, self._property = widget.valueChanged, "value"
            widget.setRange(extra[0].minimum, extra[0].maximum)
        elif type(widget) is qt.QLineEdit and kind is str:
            self._signal, self._property = widget.textChanged, "text"
        elif type(widget) is ctk.ctkPathLineEdit and kind is pathlib.Path:
            self._signal, self._property = widget.currentPathChanged, "currentPath"
        elif type(widget) is qt.QComboBox and isinstance(kind, type) and issubclass(kind, enum.Enum):
            self._signal, self._property = widget.currentIndexChanged, "enum"
            widget.clear()
            for member in kind:
                widget.addItem(member.label() if hasattr(kind, "label") else member.name)
        elif type(widget) is slicer.qMRMLNodeComboBox and _node_types(kind):
            self._signal, self._property = widget.currentNodeChanged, "node"
            widget.nodeTypes = _node_types(kind)
        else:
            raise RuntimeError(f"Unable to connect {kind} to {type(widget)}")

    def _connect(self):
        self._signal.connect(self.changed)

    def _disconnect(self):
        self._signal.disconnect(self.changed)

    def read(self):
        if self._property == "node":
            return self._widget.currentNode()
        if self._property == "enum":
            return list(self._kind)[self._widget.currentIndex]
        return self._kind(self._widget.property(self._property))

    def write(self, value):
        if self._property == "node":
            self._widget.setCurrentNode(value)
        elif self._property == "enum":
            self._widget.currentIndex = list(self._kind).index(value)
        else:
            self._widget.setProperty(self._property, str(value) if self._kind is pathlib.Path else value)

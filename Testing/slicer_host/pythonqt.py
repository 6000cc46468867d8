"""PySide6 with PythonQt's manners: one `qt` module, Qt properties as attributes, classes that .ui files name."""

import types

from PySide6 import QtCore, QtGui, QtUiTools, QtWidgets


def _attribute(name):
    return property(lambda o: o.property(name), lambda o, value: o.setProperty(name, value))


def _properties_as_attributes():
    """PythonQt gives `button.enabled` and `button.enabled = False`; setters such as setEnabled stay callable."""
    for cls in (getattr(QtWidgets, name) for name in dir(QtWidgets)):  # PySide6 makes classes on first access
        if isinstance(cls, type) and issubclass(cls, QtWidgets.QWidget):
            meta = cls.staticMetaObject
            for index in range(meta.propertyOffset(), meta.propertyCount()):
                name = meta.property(index).name()
                setattr(cls, name, _attribute(name))
    QtWidgets.QWidget.name = _attribute("objectName")


def make_qt_module(custom_widgets) -> types.ModuleType:
    """The module that `import qt` finds; its QUiLoader knows the custom widgets."""
    _properties_as_attributes()
    qt = types.ModuleType("qt")
    for source in (QtCore, QtGui, QtWidgets):
        vars(qt).update({name: getattr(source, name) for name in dir(source) if name.startswith("Q")})

    class QUiLoader(QtUiTools.QUiLoader):
        def __init__(self, *arguments):
            super().__init__(*arguments)
            for widget in custom_widgets:
                self.registerCustomWidget(widget)

    qt.QUiLoader = QUiLoader
    return qt

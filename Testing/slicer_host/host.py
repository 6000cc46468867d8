"""Starting the host: a scene, an off-screen application, and the modules that only Slicer has.

Where the environment variable SLICER_PYTHON_DIR names a checkout of Slicer/Slicer, its own Python files are used.
"""

import importlib
import importlib.util
import os
import sys
import types
from dataclasses import dataclass, field
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
CTK_NAMES = (
    *("ctkCheckBox", "ctkCheckablePushButton", "ctkSliderWidget", "ctkDoubleSlider", "ctkDoubleSpinBox", "ctkComboBox"),
    *("ctkRangeWidget", "ctkDirectoryButton", "ctkColorPickerButton", "ctkDoubleRangeSlider", "ctkCollapsibleGroupBox"),
)
QMRML_NAMES = ["qMRMLSliderWidget", "qMRMLSpinBox", "qMRMLRangeWidget"]
DIVERGING = "FileDivergingBlueRed.txt"
SEQUENTIAL = ("FileViridis.txt", "FileInferno.txt")


class NoDependencies:
    """Every Python package is there; `warm` starts the child when the panel opens."""

    def __init__(self, warm=False):
        self._warm = warm

    def complete(self):
        return self._warm

    def ensure(self):
        return False

    def ensure_readers(self):
        pass


@dataclass
class Host:
    """What a test needs: the Qt application, and what the module told the user or asked for."""

    application: object
    errors: list = field(default_factory=list)
    questions: list = field(default_factory=list)
    answer: bool = True
    main_window: object = "a window"
    installed: list = field(default_factory=list)
    layout_manager: object = None
    logics: list = field(default_factory=list)
    slicers_own: list = field(default_factory=list)

    def wait(self, condition, seconds=60):
        """Run the event loop until `condition()` holds."""
        import time

        end = time.monotonic() + seconds
        while not condition():
            if time.monotonic() > end:
                raise TimeoutError("the condition did not come true")
            self.application.processEvents()
            time.sleep(0.01)

    def new_scene(self):
        """An empty scene with what Slicer's own scenes hold: colours, a subject hierarchy, node classes of modules."""
        import slicer

        if self.layout_manager is not None:
            self.layout_manager.close()
            self.layout_manager = None
        slicer.mrmlScene.Clear(1)
        self.add_colours()
        slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(slicer.mrmlScene)
        slicer.vtkMRMLSliceNode.AddDefaultSliceOrientationPresets(slicer.mrmlScene)
        self.errors.clear()
        self.questions.clear()
        self.installed.clear()
        self.answer = True
        for name in ("sampleDataSources", "sampleDataSourceCategories"):
            vars(slicer.modules).pop(name, None)
        return slicer.mrmlScene

    def show_views(self, size=(240, 240)):
        """Give the application a layout manager with views, until the next new scene; and return it."""
        from .views import LayoutManager

        self.layout_manager = LayoutManager(size)
        return self.layout_manager

    def open_module(self, python=sys.executable, dependencies=None):
        """The module's widget on screen, as Slicer makes it; what computes is another Python."""
        import qt
        import slicer

        module = self.load_module()
        widget = module.DWISuperResWidget(slicer.qMRMLWidget())
        widget.logic = module.DWISuperResLogic(python=python, dependencies=dependencies or NoDependencies())
        widget.parent.setLayout(qt.QVBoxLayout())
        widget.layout = widget.parent.layout()
        widget.setup()
        return widget

    def add_colours(self):
        """The wheel lacks Slicer's colour files, so tables with the same ids stand in."""
        import numpy as np
        import slicer

        if slicer.mrmlScene.GetNodeByID("vtkMRMLColorTableNode" + DIVERGING):
            return
        ramp = np.linspace(0, 1, 255)
        diverging = np.stack((np.minimum(1, 2 * ramp), 1 - np.abs(2 * ramp - 1), np.minimum(1, 2 - 2 * ramp)), 1)
        for tag, colours in (
            (DIVERGING, diverging),
            *((name, np.stack((ramp, ramp, 1 - ramp), 1)) for name in SEQUENTIAL),
        ):
            colours = _slicers_colours(tag, colours)
            table = slicer.vtkMRMLColorTableNode()
            table.SetTypeToUser()
            table.SetNumberOfColors(len(colours))
            for index, colour in enumerate(colours):
                table.SetColor(index, str(index), *map(float, colour), 1.0)
            table.SetSingletonTag(tag)
            table.SetName(tag)
            table.SetSaveWithScene(False)
            slicer.mrmlScene.AddNode(table)

    def load_module(self, name="DWISuperRes"):
        """Import the module file the way Slicer does, and return it."""
        path = REPOSITORY / name / f"{name}.py"
        spec = importlib.util.spec_from_file_location(name, path)
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module
        spec.loader.exec_module(module)
        return module


def _slicers_colours(tag, otherwise):
    """The table as Slicer ships it, where there is a checkout; the wheel has none."""
    path = Path(os.environ.get("SLICER_PYTHON_DIR", "")) / "Base/Logic/Resources/ColorFiles" / tag.removeprefix("File")
    if not path.is_file():
        return otherwise
    rows = [line.split() for line in path.read_text().splitlines() if line.strip() and not line.startswith("#")]
    return [[int(value) / 255 for value in row[-4:-1]] for row in rows]


class _ModuleManager:
    """Tells modules that they are about to be unloaded; here the tests call `cleanup` themselves."""

    def connect(self, signal, slot):
        pass

    disconnect = connect


class _Application:
    """`slicer.app` without a main window; `views` gives it a layout manager."""

    def __init__(self, host):
        self._host = host
        self.temporaryPath = None
        self.slots = {}

    def connect(self, signal, slot):
        self.slots[signal] = slot

    def moduleManager(self):
        return _ModuleManager()

    def layoutManager(self):
        return self._host.layout_manager

    def testingEnabled(self):
        return False

    def translate(self, _context, text):
        return text

    def processEvents(self):
        self._host.application.processEvents()


_host = None


def start() -> Host:
    """Bring the host up once a process.

    Raises
    ------
    ImportError
        Where slicer-core or PySide6 is not installed.
    """
    global _host
    if _host is not None:
        return _host
    os.environ.setdefault("QT_QPA_PLATFORM", "offscreen")
    os.environ.setdefault(
        "QT_LOGGING_RULES", "qt.core.qobject.connect=false"
    )  # signals of vtkMRMLScene* are qMRML's own
    import slicer
    import slicer.util
    from PySide6 import QtWidgets

    from . import parameter_nodes, pythonqt, sample_data, scripted_module, widgets

    application = QtWidgets.QApplication.instance() or QtWidgets.QApplication(["Slicer"])
    host = _host = Host(application)
    slicer.mrmlScene = slicer.vtkMRMLScene()
    slicer.app = _Application(host)
    sys.modules["qt"] = pythonqt.make_qt_module((*widgets.CTK, *widgets.QMRML))
    sys.modules["ctk"] = types.ModuleType("ctk")
    vars(sys.modules["ctk"]).update({cls.__name__: cls for cls in widgets.CTK})
    vars(slicer).update({cls.__name__: cls for cls in widgets.QMRML})
    i18n = types.ModuleType("slicer.i18n")
    i18n.tr = lambda text: slicer.app.translate(_context_of(sys._getframe(1)), text)
    i18n.translate = lambda context, text: slicer.app.translate(context, text)
    sys.modules["slicer.i18n"] = slicer.i18n = i18n
    sys.modules["slicer.ScriptedLoadableModule"] = slicer.ScriptedLoadableModule = scripted_module
    sys.modules["slicer.parameterNodeWrapper"] = slicer.parameterNodeWrapper = parameter_nodes
    sys.modules["SampleData"] = sample_data
    sys.modules["slicer.packaging"] = slicer.packaging = _packaging(host)
    slicer.modules = types.SimpleNamespace()
    _replace_dialogs(host)
    _start_mrml(host)
    if folder := os.environ.get("SLICER_PYTHON_DIR"):
        _use_slicers_own(host, Path(folder))
    return host


def _context_of(frame):
    """As slicer.i18n.getContext names it: package and file."""
    return ".".join(frame.f_globals["__name__"].split(".")[-2:])


def _use_slicers_own(host, checkout):
    """Take Slicer's own Python files from a checkout of Slicer/Slicer in place of the host's stand-ins."""
    import ctk
    import slicer

    for module, names in ((ctk, CTK_NAMES), (slicer, QMRML_NAMES)):  # widgets they know and the panel has none of
        for name in names:
            if not hasattr(module, name):
                setattr(module, name, type(name, (), {}))
    install = slicer.packaging.pip_ensure
    slicer.__path__.append(str(checkout / "Base/Python/slicer"))
    for name in ("i18n", "ScriptedLoadableModule", "parameterNodeWrapper", "packaging"):
        del sys.modules[f"slicer.{name}"]
        setattr(slicer, name, importlib.import_module(f"slicer.{name}"))
        host.slicers_own.append(f"slicer.{name}")
    slicer.packaging.pip_ensure = install  # tests install nothing
    sys.path.append(str(checkout / "Modules/Scripted/SampleData"))
    del sys.modules["SampleData"]
    importlib.import_module("SampleData")
    host.slicers_own.append("SampleData")


def _replace_dialogs(host):
    """Pop-ups become entries in the host's lists."""
    import slicer

    def error(text, **_):
        host.errors.append(text)

    def confirm(text, **_):
        host.questions.append(text)
        return host.answer

    slicer.util.errorDisplay = error
    slicer.util.confirmOkCancelDisplay = confirm
    slicer.util.mainWindow = lambda: host.main_window
    slicer.util.modulePath = lambda name: str(REPOSITORY / name / f"{name}.py")


def _start_mrml(host):
    import slicer

    scene = slicer.mrmlScene
    color_logic = slicer.vtkMRMLColorLogic()
    color_logic.SetMRMLScene(scene)
    scene.RegisterNodeClass(slicer.vtkMRMLColorLegendDisplayNode())
    segmentations = slicer.vtkSlicerSegmentationsModuleLogic()
    segmentations.SetMRMLScene(scene)
    host.logics += [color_logic, segmentations]  # destroying a logic would take its nodes along
    host.add_colours()


def _packaging(host):
    packaging = types.ModuleType("slicer.packaging")

    def pip_ensure(requirements, **options):
        host.installed.append((requirements, options))

    packaging.pip_ensure = pip_ensure
    packaging.pip_check = lambda requirement: True
    packaging.load_requirements = lambda path: [
        line for line in Path(path).read_text().splitlines() if line and not line.startswith("#")
    ]
    return packaging

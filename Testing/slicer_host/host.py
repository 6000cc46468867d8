"""Starting the host: a scene, an off-screen application, and the modules that only Slicer has."""

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
SEQUENTIAL = "FileViridis.txt"


@dataclass
class Host:
    """What a test needs: the Qt application, and what the module told the user or asked for."""

    application: object
    errors: list = field(default_factory=list)
    questions: list = field(default_factory=list)
    answer: bool = True
    main_window: object = "a window"
    installed: list = field(default_factory=list)
    samples: list = field(default_factory=list)
    logics: list = field(default_factory=list)

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

        slicer.mrmlScene.Clear(1)
        self.add_colours()
        slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(slicer.mrmlScene)
        slicer.vtkMRMLSliceNode.AddDefaultSliceOrientationPresets(slicer.mrmlScene)
        self.errors.clear()
        self.questions.clear()
        self.installed.clear()
        self.answer = True
        return slicer.mrmlScene

    def add_colours(self):
        """The wheel lacks Slicer's colour files, so tables with the same ids stand in."""
        import numpy as np
        import slicer

        if slicer.mrmlScene.GetNodeByID("vtkMRMLColorTableNode" + DIVERGING):
            return
        ramp = np.linspace(0, 1, 255)
        diverging = np.stack((np.minimum(1, 2 * ramp), 1 - np.abs(2 * ramp - 1), np.minimum(1, 2 - 2 * ramp)), 1)
        for tag, colours in ((DIVERGING, diverging), (SEQUENTIAL, np.stack((ramp, ramp, 1 - ramp), 1))):
            table = slicer.vtkMRMLColorTableNode()
            table.SetTypeToUser()
            table.SetNumberOfColors(255)
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


class _Application:
    """`slicer.app` without a main window."""

    def __init__(self, host):
        self._host = host
        self.temporaryPath = None
        self.slots = {}

    def connect(self, signal, slot):
        self.slots[signal] = slot

    def layoutManager(self):
        return None

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

    from . import parameter_nodes, pythonqt, scripted_module, widgets

    application = QtWidgets.QApplication.instance() or QtWidgets.QApplication(["Slicer"])
    host = _host = Host(application)
    slicer.mrmlScene = slicer.vtkMRMLScene()
    slicer.app = _Application(host)
    sys.modules["qt"] = pythonqt.make_qt_module((*widgets.CTK, *widgets.QMRML))
    sys.modules["ctk"] = types.ModuleType("ctk")
    vars(sys.modules["ctk"]).update({cls.__name__: cls for cls in widgets.CTK})
    vars(slicer).update({cls.__name__: cls for cls in widgets.QMRML})
    i18n = types.ModuleType("slicer.i18n")
    i18n.tr, i18n.translate = (lambda text: text), (lambda _context, text: text)
    sys.modules["slicer.i18n"] = slicer.i18n = i18n
    sys.modules["slicer.ScriptedLoadableModule"] = slicer.ScriptedLoadableModule = scripted_module
    sys.modules["slicer.parameterNodeWrapper"] = slicer.parameterNodeWrapper = parameter_nodes
    sys.modules["SampleData"] = _sample_data(host)
    sys.modules["slicer.packaging"] = slicer.packaging = _packaging(host)
    slicer.modules = types.SimpleNamespace()
    _replace_dialogs(host)
    _start_mrml(host)
    if folder := os.environ.get("SLICER_PYTHON_DIR"):
        _use_slicers_own(Path(folder))
    return host


def _use_slicers_own(folder):
    """Take the Python of a Slicer checkout (its Base/Python/slicer) in place of the host's: an oracle for the host."""
    import ctk
    import slicer

    for module, names in ((ctk, CTK_NAMES), (slicer, QMRML_NAMES)):  # widgets they know and the panel has none of
        for name in names:
            if not hasattr(module, name):
                setattr(module, name, type(name, (), {}))
    slicer.app.translate = lambda _context, text: text
    slicer.__path__.append(str(folder))
    for name in ("i18n", "parameterNodeWrapper"):
        del sys.modules[f"slicer.{name}"]
        setattr(slicer, name, importlib.import_module(f"slicer.{name}"))


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


def _sample_data(host):
    module = types.ModuleType("SampleData")

    class SampleDataLogic:
        @staticmethod
        def registerCustomSampleDataCategory(category, title):
            pass

        @staticmethod
        def registerCustomSampleDataSource(**options):
            host.samples.append(options)

    module.SampleDataLogic = SampleDataLogic
    return module

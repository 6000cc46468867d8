"""DWISuperRes, the module as Slicer sees it: a thin shell around DWISuperResLib."""

import contextlib
import importlib.util
import sys
from pathlib import Path

import slicer
from slicer.i18n import tr as _
from slicer.i18n import translate
from slicer.ScriptedLoadableModule import (
    ScriptedLoadableModule,
    ScriptedLoadableModuleLogic,
    ScriptedLoadableModuleTest,
    ScriptedLoadableModuleWidget,
)
from slicer.util import VTKObservationMixin

if importlib.util.find_spec("DWISuperResLib") is None:  # run from the source tree, where the library lies one folder up
    sys.path.append(str(Path(__file__).resolve().parents[1]))

from DWISuperResLib.gui import file_io, self_test
from DWISuperResLib.gui.logic import Logic
from DWISuperResLib.gui.panel import Panel
from DWISuperResLib.gui.parameters import ParameterNode
from DWISuperResLib.gui.paths import resource
from DWISuperResLib.gui.sample_data import register_sample_data


class DWISuperRes(ScriptedLoadableModule):
    """What the module is called, where it stands, who made it."""

    def __init__(self, parent):
        ScriptedLoadableModule.__init__(self, parent)
        parent.title = _("DWI Super-Resolution")
        parent.categories = [translate("qSlicerAbstractCoreModule", "Diffusion")]
        parent.dependencies = []
        parent.contributors = ["DWISuperRes contributors"]
        parent.helpText = _(
            "Super-resolves diffusion-weighted MRI within the slice, and shows what that does to the microstructure: "
            "FA and QA before and after, their differences, statistics and plots. Choose a scan, a model and a scale "
            "factor, and press Apply; the computation runs beside 3D Slicer. The README of the extension has a "
            "tutorial with sample data and a list of known problems."
        )
        parent.acknowledgementText = _("Results are for research and must not be used for diagnosis.")
        if Path(icon := resource("Icons/DWISuperRes.png")).is_file():
            import qt

            parent.icon = qt.QIcon(icon)  # found by itself only when installed, not in the source tree
        slicer.app.connect("startupCompleted()", register_sample_data)


class DWISuperResWidget(ScriptedLoadableModuleWidget, VTKObservationMixin):
    """Loads the panel and tells it when scenes and modules come and go."""

    def __init__(self, parent=None):
        VTKObservationMixin.__init__(self)
        self.logic = self.panel = None
        ScriptedLoadableModuleWidget.__init__(self, parent)  # without a parent it calls setup

    def setup(self):
        """Build the panel."""
        ScriptedLoadableModuleWidget.setup(self)
        widget = slicer.util.loadUI(resource("UI/DWISuperRes.ui"))
        self.layout.addWidget(widget)
        widget.setMRMLScene(slicer.mrmlScene)
        self.logic = self.logic or DWISuperResLogic()
        self.panel = Panel(widget, self.logic)
        self.addObserver(slicer.mrmlScene, slicer.mrmlScene.StartCloseEvent, self.onSceneStartClose)
        self.addObserver(slicer.mrmlScene, slicer.mrmlScene.EndCloseEvent, self.onSceneEndClose)
        self.addObserver(slicer.mrmlScene, slicer.mrmlScene.StartImportEvent, self.onSceneStartImport)
        self.addObserver(slicer.mrmlScene, slicer.mrmlScene.EndImportEvent, self.onSceneEndImport)
        self.enter()

    def enter(self):
        """Follow the scene's parameter node."""
        parameters = self.logic.getParameterNode()
        if parameters.inputVolume is None:
            parameters.inputVolume = slicer.mrmlScene.GetFirstNodeByClass("vtkMRMLDiffusionWeightedVolumeNode")
        self.panel.bind(parameters)
        self.logic.warmUp()

    def exit(self):
        """Stop following it; what runs goes on."""
        self.panel.bind(None)

    def onSceneStartClose(self, _caller, _event):
        """End what runs, and let go of nodes that are about to vanish."""
        self.logic.cancel()
        self.panel.bind(None)

    def onSceneEndClose(self, _caller, _event):
        """Start anew if the module is on screen."""
        if getattr(self.parent, "isEntered", True):  # a widget made by a script has no such parent
            self.enter()

    def onSceneStartImport(self, _caller, _event):
        """Let go of the parameters while a scene is loaded: its references do not resolve yet."""
        self.panel.bind(None)

    def onSceneEndImport(self, _caller, _event):
        """Follow what the scene brought, and say nothing of what was before."""
        self.onSceneEndClose(_caller, _event)
        self.panel.forget()

    def cleanup(self):
        """Before the module is reloaded or Slicer exits."""
        self.removeObservers()
        if self.panel is not None:
            self.panel.close()

    def onReload(self):
        """Reload the library too, which Slicer would keep as it was."""
        for name in [name for name in sys.modules if name.split(".")[0] == "DWISuperResLib"]:
            del sys.modules[name]
        ScriptedLoadableModuleWidget.onReload(self)


class DWISuperResLogic(Logic, ScriptedLoadableModuleLogic):
    """See `DWISuperResLib.gui.logic.Logic`; in the Python console:

    logic = DWISuperRes.DWISuperResLogic()
    out = logic.superResolve(dwiNode, checkpoint="default", scale=2)
    maps = logic.compare(reference, out)
    """

    def __init__(self, **collaborators):
        ScriptedLoadableModuleLogic.__init__(self)
        Logic.__init__(self, **collaborators)

    def getParameterNode(self):
        """The parameters saved with the scene."""
        return ParameterNode(ScriptedLoadableModuleLogic.getParameterNode(self))


class DWISuperResFileReader:
    """NIfTI with .bval and .bvec beside it, for Add Data and drag and drop (found by its name)."""

    def __init__(self, parent):
        self.parent = parent

    def description(self):
        """What the file is called in Add Data."""
        return _("Diffusion-weighted NIfTI")

    def fileType(self):
        """The name for scripts."""
        return file_io.FILE_TYPE

    def extensions(self):
        """For file dialogs."""
        return [_("Diffusion-weighted NIfTI") + " (*.nii.gz *.nii)"]

    def canLoadFile(self, filePath):
        """Whether both tables lie beside it."""
        return self.canLoadFileConfidence(filePath) > 0

    def canLoadFileConfidence(self, filePath):
        """See `file_io.read_confidence`."""
        return file_io.read_confidence(filePath)

    def load(self, properties):
        """See `file_io.load`."""
        return file_io.load(self.parent, properties, DWISuperResLogic())


class DWISuperResFileWriter:
    """A DWI as NIfTI with .bval and .bvec beside it, for Save and Export (found by its name)."""

    def __init__(self, parent):
        self.parent = parent
        self._scene = None

    def description(self):
        """What the format is called."""
        return _("Diffusion-weighted NIfTI")

    def fileType(self):
        """The name for scripts."""
        return file_io.FILE_TYPE

    def extensions(self, obj):
        """For the format list of the Save dialog; also the last question before `write`, so it tells the scene.

        Export copies nodes into a scene of its own, whose node IDs may be those of other nodes in Slicer's
        (qSlicerCoreIOManager::exportNodes), and names that scene nowhere else.
        """
        self._scene = obj.GetScene() if obj is not None else None
        return [_("Diffusion-weighted NIfTI") + f" ({suffix})" for suffix in file_io.SUFFIXES]

    def canWriteObject(self, obj):
        """DWI volumes only."""
        return obj is not None and bool(obj.IsA("vtkMRMLDiffusionWeightedVolumeNode"))

    def canWriteObjectConfidence(self, obj):
        """Less than Slicer's NRRD writer, which stays the first choice."""
        return file_io.WRITE_CONFIDENCE if self.canWriteObject(obj) else 0.0

    def write(self, properties):
        """See `file_io.write`."""
        scene, self._scene = self._scene or slicer.mrmlScene, None
        return file_io.write(self.parent, properties, scene)


class DWISuperResTest(ScriptedLoadableModuleTest):
    """The scenarios of the test suite, inside Slicer."""

    def setUp(self):
        """An empty scene."""
        slicer.mrmlScene.Clear(0)

    def test_nodes(self):
        self_test.check_nodes()

    def test_panel(self):
        widget = DWISuperResWidget()
        try:
            self_test.check_panel(widget)
        finally:
            widget.cleanup()
            widget.parent.hide()

    def test_comparison(self):
        with contextlib.closing(DWISuperResLogic()) as logic:
            self_test.check_comparison(logic)

    def test_super_resolution(self):
        with contextlib.closing(DWISuperResLogic()) as logic:
            self_test.check_super_resolution(logic)

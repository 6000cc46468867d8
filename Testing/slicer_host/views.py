"""A layout manager with real slice logics and off-screen colour legends; plot views that only tell what was picked."""

import slicer
import vtk
from PySide6 import QtCore
from vtk.util.numpy_support import vtk_to_numpy

LEGENDS = "vtkMRMLColorLegendDisplayableManager"


class PlotView(QtCore.QObject):
    dataSelected = QtCore.Signal(object, object)


class PlotWidget:
    def __init__(self, node):
        self._node, self._view = node, PlotView()

    def plotView(self):
        return self._view

    def mrmlPlotViewNode(self):
        return self._node


class SliceWidget:
    """A slice view: real logic, and the displayable manager that draws colour legends in it."""

    def __init__(self, node, application_logic, size):
        self._logic = slicer.vtkMRMLSliceLogic()
        self._logic.SetMRMLApplicationLogic(application_logic)
        self._logic.SetMRMLScene(slicer.mrmlScene)
        self._logic.SetSliceNode(node)
        application_logic.GetSliceLogics().AddItem(self._logic)
        node.SetDimensions(*size, 1)
        node.SetFieldOfView(250.0, 250.0 * size[1] / size[0], 1.0)
        self._window, renderer = vtk.vtkRenderWindow(), vtk.vtkRenderer()
        self._window.SetOffScreenRendering(1)
        self._window.AddRenderer(renderer)
        self._interactor = vtk.vtkRenderWindowInteractor()
        self._interactor.SetRenderWindow(self._window)
        factory = slicer.vtkMRMLSliceViewDisplayableManagerFactory.GetInstance()
        factory.SetMRMLApplicationLogic(application_logic)
        if not factory.IsDisplayableManagerRegistered(LEGENDS):
            factory.RegisterDisplayableManager(LEGENDS)
        self._managers = factory.InstantiateDisplayableManagers(renderer)
        self._managers.SetMRMLDisplayableNode(node)
        self._legends = self._managers.GetNthDisplayableManager(0)

    def sliceLogic(self):
        return self._logic

    def close(self):
        self._managers.SetMRMLDisplayableNode(None)
        self._legends.SetMRMLApplicationLogic(None)
        self._logic.SetMRMLScene(None)

    def legend_titles(self):
        """Of the legends that are drawn here."""
        found = slicer.util.getNodesByClass("vtkMRMLColorLegendDisplayNode")
        actors = [(node, self._legends.GetColorLegendActor(node)) for node in found]
        return [node.GetTitleText() for node, actor in actors if actor is not None and actor.GetVisibility()]

    def picture(self):
        """(rows, columns, RGBA) of the slice, without OpenGL."""
        self._logic.UpdatePipeline()
        producer = self._logic.GetImageDataConnection().GetProducer()
        producer.Update()
        image = producer.GetOutputDataObject(0)
        x, y, _ = image.GetDimensions()
        return vtk_to_numpy(image.GetPointData().GetScalars()).reshape(y, x, -1)


class LayoutManager:
    """Makes the views of a layout when it is chosen, as Slicer's main window does."""

    def __init__(self, size=(240, 240)):
        self._size, self._slices, self._plots = size, {}, []
        self._application_logic = slicer.vtkMRMLApplicationLogic()
        self._application_logic.SetMRMLScene(slicer.mrmlScene)
        self._application_logic.SetSliceLogics(vtk.vtkCollection())
        self._layout_logic = slicer.vtkMRMLLayoutLogic()
        self._layout_logic.SetMRMLScene(slicer.mrmlScene)
        self._tag = self._layout_logic.GetLayoutNode().AddObserver("ModifiedEvent", self._update)

    def _update(self, *_):
        views = self._layout_logic.GetViewNodes()
        for index in range(views.GetNumberOfItems()):
            node = views.GetItemAsObject(index)
            tag = node.GetSingletonTag()
            if node.IsA("vtkMRMLSliceNode") and tag not in self._slices:
                self._slices[tag] = SliceWidget(node, self._application_logic, self._size)
            elif node.IsA("vtkMRMLPlotViewNode") and node not in [p.mrmlPlotViewNode() for p in self._plots]:
                self._plots.append(PlotWidget(node))

    def close(self):
        """Let go of the scene, in the order in which Slicer does: views first."""
        self._layout_logic.GetLayoutNode().RemoveObserver(self._tag)
        for widget in self._slices.values():
            widget.close()
        self._application_logic.GetSliceLogics().RemoveAllItems()
        self._application_logic.SetMRMLScene(None)
        self._layout_logic.SetMRMLScene(None)

    def mrmlSliceLogics(self):
        return self._application_logic.GetSliceLogics()

    def sliceWidget(self, tag):
        return self._slices.get(tag)

    @property
    def plotViewCount(self):
        return len(self._plots)

    def plotWidget(self, index):
        return self._plots[index]

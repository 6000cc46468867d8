"""The README's picture: the module's panel after a comparison of a real scan, with its views, plots and table.

SLICER_PYTHON_DIR=/path/to/Slicer python -m Testing.slicer_host.picture SCAN OUTPUT.png

The slices come from Slicer's own slice logic and colour tables; the look of Qt is PySide6's. Legends and plots are
drawn here from the nodes, since the widgets that draw them exist only in Slicer.
"""

import io
import sys
from pathlib import Path

PANEL_WIDTH, HEIGHT = 440, 860
VIEW = (310, 470)


def main(scan, output):
    from Testing.slicer_host import start

    host = start()
    import qt
    import slicer
    import slicer.util

    from DWISuperResLib import mrml

    host.new_scene()
    manager = host.show_views(VIEW)
    widget = host.open_module()
    panel = widget.panel
    panel.input.load(scan)
    panel.parameters.inputVolume.SetName("oblique")  # what its name becomes still fits into the boxes
    panel.parameters.referenceVolume = panel.parameters.inputVolume
    for button in (panel.ui.simulateButton, panel.ui.applyButton, panel.ui.compareButton):
        button.click()
        host.wait(lambda: not widget.logic.isRunning, 900)
        if host.errors:
            raise RuntimeError(host.errors[0])
    panel.parameters.exportFolder = Path("/home/me/comparison")
    widget.parent.resize(PANEL_WIDTH, HEIGHT)
    widget.parent.show()
    host.application.processEvents()
    picture = compose(qt, widget.parent.grab(), manager, mrml, slicer)
    widget.cleanup()
    if not picture.save(output):
        raise OSError(output)


def compose(qt, panel, manager, mrml, slicer):
    """Panel at the left, views above plots and table at the right."""
    picture = qt.QImage(PANEL_WIDTH + 3 * VIEW[0] + 8, HEIGHT, qt.QImage.Format_RGB32)
    picture.fill(qt.QColor("#20242a"))
    painter = qt.QPainter(picture)
    painter.drawPixmap(0, 0, panel)
    colours = ("#4A7FB5", "#4AA577", "#C05A4A")
    for n, (role, tag) in enumerate(mrml.SLICE_VIEWS.items()):
        x = PANEL_WIDTH + 4 + n * (VIEW[0] + 2)
        draw_view(qt, painter, x, manager.sliceWidget(tag), role, colours[n], slicer)
    plots = [slicer.mrmlScene.GetSingletonNode(t, "vtkMRMLPlotViewNode").GetPlotChartNode() for t in PLOTS]
    for n, chart in enumerate(plots):
        draw_image(qt, painter, chart_picture(chart), PANEL_WIDTH + 4 + n * (VIEW[0] + 2), VIEW[1] + 4)
    table = table_widget(qt, mrml.statistics_rows())
    painter.drawPixmap(PANEL_WIDTH + 4 + 2 * (VIEW[0] + 2), VIEW[1] + 4, table.grab())
    painter.end()
    return picture


PLOTS = ("DWISuperResAgreement", "DWISuperResHistogram")


def draw_view(qt, painter, x, view, role, colour, slicer):
    import numpy as np

    rgba = np.ascontiguousarray(np.flipud(view.picture()))
    black = np.zeros((*rgba.shape[:2], 3), np.uint8)
    shown = np.ascontiguousarray(np.where(rgba[..., 3:] > 0, rgba[..., :3], black))
    image = qt.QImage(shown.data, shown.shape[1], shown.shape[0], shown.strides[0], qt.QImage.Format_RGB888)
    painter.drawImage(x, 0, image)
    painter.fillRect(x, 0, VIEW[0], 20, qt.QColor(colour))
    painter.setPen(qt.QColor("white"))
    painter.drawText(x + 6, 15, role.capitalize())
    volume = slicer.mrmlScene.GetNodeByID(view.sliceLogic().GetSliceCompositeNode().GetBackgroundVolumeID())
    display, titles = volume.GetDisplayNode(), view.legend_titles()
    if not titles:
        return
    low, high, table = display.GetWindowLevelMin(), display.GetWindowLevelMax(), display.GetColorNode()
    top, height, colours = 60, 150, table.GetNumberOfColors()
    for row in range(height):
        rgb = [0.0] * 4
        table.GetColor(round((1 - row / (height - 1)) * (colours - 1)), rgb)
        painter.fillRect(x + VIEW[0] - 20, top + row, 10, 1, qt.QColor.fromRgbF(*rgb[:3]))
    painter.drawText(x + VIEW[0] - 8 - painter.fontMetrics().horizontalAdvance(titles[0]), top - 10, titles[0])
    for n in range(3):
        text = f"{high - n * (high - low) / 2:.2g}"
        width = painter.fontMetrics().horizontalAdvance(text)
        painter.drawText(x + VIEW[0] - 26 - width, top + 5 + n * height // 2, text)


def chart_picture(chart):
    """A chart as its nodes describe it."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from vtk.util.numpy_support import vtk_to_numpy

    figure = Figure(figsize=(VIEW[0] / 100, (HEIGHT - VIEW[1] - 4) / 100), dpi=100, layout="tight")
    axes = figure.subplots()
    for n in range(chart.GetNumberOfPlotSeriesNodes()):
        series = chart.GetNthPlotSeriesNode(n)
        table = series.GetTableNode().GetTable()
        x, y = (
            vtk_to_numpy(table.GetColumnByName(name)) for name in (series.GetXColumnName(), series.GetYColumnName())
        )
        points = series.GetMarkerStyle() != series.MarkerStyleNone
        style = {"marker": "o", "ms": 1.2, "ls": ""} if points else {"lw": 1.2}
        axes.plot(x, y, color=series.GetColor(), label=series.GetName(), **style)
    axes.set_title(chart.GetTitle(), fontsize=9)
    axes.set_xlabel(chart.GetXAxisTitle(), fontsize=8)
    axes.set_ylabel(chart.GetYAxisTitle(), fontsize=8)
    axes.tick_params(labelsize=7)
    axes.legend(fontsize=7)
    buffer = io.BytesIO()
    FigureCanvasAgg(figure).print_png(buffer)
    return buffer.getvalue()


def draw_image(qt, painter, png, x, y):
    image = qt.QImage()
    image.loadFromData(png)
    painter.drawImage(x, y, image)


def table_widget(qt, rows):
    table = qt.QTableWidget(len(rows) - 1, len(rows[0]))
    table.setHorizontalHeaderLabels(list(rows[0]))
    for r, row in enumerate(rows[1:]):
        for c, text in enumerate(row):
            table.setItem(r, c, qt.QTableWidgetItem(text))
    table.resizeColumnsToContents()
    table.verticalHeader().hide()
    table.resize(VIEW[0], HEIGHT - VIEW[1] - 4)
    return table


if __name__ == "__main__":
    main(*sys.argv[1:])

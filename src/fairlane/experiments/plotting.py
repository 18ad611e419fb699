"""Drawing: panels and tables as pages of axes, saved as PNG, PDF or SVG.

Lines are medians of an ensemble, bands its range, and circles what was measured. Nothing is drawn
over data: legends and notes lie below.
"""

import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from textwrap import fill
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Page
from matplotlib.lines import Line2D
from matplotlib.transforms import Bbox

from fairlane import metrics
from fairlane.core.errors import FairlaneError
from fairlane.experiments.drawings import Band, Bars, Boxes, Curve, Drawing, Grid, Panel
from fairlane.experiments.figure import Ensemble
from fairlane.experiments.panels import (
    CLIENT_COLOURS,
    difference_panel,
    lack_panel,
    replica_panel,
    response_panel,
    service_panel,
)
from fairlane.experiments.samples import Sample
from fairlane.experiments.tables import TextTable, number_table
from fairlane.files import atomic_write
from fairlane.records import Run

PANEL_INCHES = (4.6, 3.7)
DPI = 150
FORMATS = ("png", "pdf", "svg")
MOST_REPLICAS = 16
_STYLE: Any = {  # Any: matplotlib's types ask for literal keys
    "font.size": 9,
    "axes.titlesize": 9.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#E4E4E4",
    "grid.linewidth": 0.6,
    "legend.frameon": False,
    "legend.fontsize": 8,
    "legend.handlelength": 1.5,
    "legend.columnspacing": 1.4,
    "lines.linewidth": 1.5,
    "figure.constrained_layout.w_pad": 0.1,
    "figure.constrained_layout.h_pad": 0.08,
    "svg.hashsalt": "fairlane",  # the same figure is the same file
    "pdf.fonttype": 42,  # text stays text
}
_NO_DATES = {"png": {"Software": None}, "pdf": {"CreationDate": None}, "svg": {"Date": None}}


def draw_page(
    title: str, drawings: Sequence[Drawing], *, columns: int | None = None, note: str = ""
) -> Page:
    """A page of axes, `columns` to a row, the title above and the note below."""
    with mpl.rc_context(_STYLE):
        across = columns or (len(drawings) if len(drawings) <= 3 else 2 + (len(drawings) > 4))
        down = -(-len(drawings) // across)
        width, height = PANEL_INCHES
        size = (max(width * across, 6.4), height * down + 0.5)
        page = _page(size, title, note)
        grid = page.subplots(down, across, squeeze=False).flatten()
        for axes, drawing in zip(grid, drawings, strict=False):
            _draw(axes, drawing)
        for axes in grid[len(drawings) :]:
            axes.set_axis_off()
        return page


def draw_tables(title: str, tables: Sequence[Grid], *, note: str = "") -> Page:
    """A page of tables, each number with its range, and what was measured."""
    with mpl.rc_context(_STYLE):
        texts = [number_table(table) for table in tables]
        width = max(sum(_widths(text)) for text in texts)
        heights = [len(text.rows) + 3 for text in texts]
        page = _page((width, 0.27 * sum(heights) + 0.9), title, note)
        grid = page.subplots(len(tables), 1, squeeze=False, height_ratios=heights).flatten()
        for axes, text in zip(grid, texts, strict=True):
            _draw_table(axes, text)
        return page


def _page(size: tuple[float, float], title: str, note: str) -> Page:
    """An empty page of this size in inches; title and note are wrapped to its width."""
    page = Page(figsize=size, layout="constrained")
    page.suptitle(fill(title, int(10 * size[0])), fontsize=11, fontweight="bold")
    page.supxlabel(fill(note, int(16 * size[0])), fontsize=8, color="#555555")
    return page


def save_page(page: Page, path: Path) -> None:
    """Write the page in the format that the file's name ends with; the same page, the same bytes.

    Raises FairlaneError for a format that is not drawn and OutputError for an unwritable file.
    """
    kind = path.suffix.removeprefix(".").lower()
    if kind not in FORMATS:
        raise FairlaneError(f"{path}: give a name that ends in .{', .'.join(FORMATS)}")
    with mpl.rc_context(_STYLE), atomic_write(path, binary=True) as file:
        page.savefig(file, format=kind, dpi=DPI, metadata=_NO_DATES[kind])


def picture(page: Page) -> bytes:
    """The page as PNG."""
    with mpl.rc_context(_STYLE):
        file = io.BytesIO()
        page.savefig(file, format="png", dpi=DPI, metadata=_NO_DATES["png"])
        return file.getvalue()


def plot_runs(runs: Mapping[str, Run], *, by_replica: bool = False) -> Page:
    """Service and response time per client of every run, and all runs' differences.

    The same quantity has the same scale in all runs, so that they can be compared by eye.
    by_replica: also service at each replica. Raises FairlaneError for runs of one server then.
    """
    ensembles = [Ensemble(name, [Sample.of(run)]) for name, run in runs.items()]
    service = _same_scale([service_panel(e, **_span_and_clients(e)) for e in ensembles])
    response = _same_scale([response_panel(e, **_span_and_clients(e)) for e in ensembles])
    by_name = {ensemble.label: ensemble for ensemble in ensembles}
    differences = [difference_panel(by_name), lack_panel(by_name)]
    at_replicas = _replica_panels(ensembles) if by_replica else []
    few = 1 < len(runs) <= 3
    if few:  # a column per run
        drawings = [*service, *at_replicas, *response, *differences]
    else:
        pairs = zip(service, response, strict=True)
        drawings = [*(panel for pair in pairs for panel in pair), *differences, *at_replicas]
    note = "Service and response time: means over the minute around each instant."
    if any(_is_crowd(ensemble) for ensemble in ensembles):
        note += " Of many clients the two heaviest and two in the middle are shown."
    return draw_page("", drawings, columns=len(runs) if few else 2, note=note)


def _replica_panels(ensembles: Sequence[Ensemble]) -> list[Panel]:
    """Service at each replica: one replica of all runs after the other."""
    replicas = 1 + max(int(e.samples[0].table.replica.max()) for e in ensembles)
    if replicas == 1:
        raise FairlaneError("by-replica: these are runs of one server")
    if replicas > MOST_REPLICAS:
        raise FairlaneError(f"by-replica: {replicas} replicas; at most {MOST_REPLICAS} are drawn")
    return _same_scale(
        [
            replica_panel(ensemble, replica, **_span_and_clients(ensemble))
            for replica in range(replicas)
            for ensemble in ensembles
        ]
    )


def _is_crowd(ensemble: Ensemble) -> bool:
    return len(ensemble.samples[0].table.clients) > len(CLIENT_COLOURS)


def _span_and_clients(ensemble: Ensemble) -> dict[str, Any]:
    """Until the last token, of all clients or of some if there are many."""
    table = ensemble.samples[0].table
    clients = metrics.shown_clients(table) if _is_crowd(ensemble) else table.clients
    return {"count": 60, "span": max(float(table.end.max()), 1.0), "clients": clients}


def _same_scale(panels: list[Panel]) -> list[Panel]:
    peaks = [np.nanmax(curve.values, initial=0) for panel in panels for curve in panel.curves]
    return [replace(panel, y_max=1.05 * float(max(peaks)) or 1.0) for panel in panels]


def _draw(axes: Axes, drawing: Drawing) -> None:
    axes.set_title(drawing.title, loc="left")
    axes.set_ylabel(drawing.y_label)
    draw: Callable[[], None]
    if isinstance(drawing, Panel):
        draw = partial(_draw_curves, axes, drawing)
    elif isinstance(drawing, Bars):
        draw = partial(_draw_bars, axes, drawing)
    else:
        draw = partial(_draw_boxes, axes, drawing)
    draw()
    if axes.dataLim.y0 >= 0:
        axes.set_ylim(bottom=0)


def _draw_curves(axes: Axes, panel: Panel) -> None:
    shade = 0.22 if len(panel.curves) <= 4 else 0.08  # many bands would hide each other
    for curve in panel.curves:
        _draw_curve(axes, curve, shade)
    axes.set_xlabel(panel.x_label)
    axes.set_xlim(left=panel.x_min)
    if panel.y_max is not None:
        axes.set_ylim(0, panel.y_max)
    shown = [curve for curve in panel.curves if not curve.quiet]
    handles = [Line2D([], [], color=c.colour, label=c.label) for c in shown]
    if len(shown) < len(panel.curves):
        handles.append(Line2D([], [], color="#888888", label=f"{len(panel.curves)} clients"))
    _legend_below(axes, handles)


def _draw_curve(axes: Axes, curve: Curve, shade: float) -> None:
    median, low, high = Band.of(curve.values)
    if curve.quiet:
        axes.plot(curve.x, median, color=curve.colour, linewidth=0.7, alpha=0.7)
        return
    axes.fill_between(curve.x, low, high, color=curve.colour, alpha=shade, linewidth=0)
    axes.plot(curve.x, median, color=curve.colour)
    if curve.measured is not None:
        style: Any = {
            "marker": "o",
            "markersize": 3.2,
            "markerfacecolor": "white",
            "linestyle": ":",
        }
        style["markevery"] = max(1, len(curve.x) // 30)
        axes.plot(curve.x, curve.measured, color=curve.colour, linewidth=0.8, **style)


def _draw_bars(axes: Axes, drawing: Bars) -> None:
    for position, bar in enumerate(drawing.bars):
        median, low, high = (float(v[0]) for v in Band.of(bar.values[:, np.newaxis]))
        reach = [[median - low], [high - median]]
        axes.bar(position, median, 0.62, color=bar.colour, alpha=0.8)
        axes.errorbar(position, median, reach, color="#222222", capsize=4, linewidth=1)
        axes.plot(position, bar.measured, "o", color="#222222", markerfacecolor="white")
    axes.set_xticks(range(len(drawing.bars)), [bar.label for bar in drawing.bars])
    axes.grid(axis="x", visible=False)


def _draw_boxes(axes: Axes, drawing: Boxes) -> None:
    for position, box in enumerate(drawing.boxes):
        pair = [(box.values, box.colour)]
        pair += [] if box.measured is None else [(box.measured, "white")]
        width = 0.7 / len(pair)
        for i, (values, inside) in enumerate(pair):
            x = position + (i - (len(pair) - 1) / 2) * width
            parts = axes.boxplot(
                values, positions=[x], widths=0.85 * width, whis=(5, 95), showfliers=False,
                patch_artist=True, manage_ticks=False, medianprops={"color": "#222222"},
            )  # fmt: skip
            parts["boxes"][0].set(facecolor=inside, edgecolor=box.colour, alpha=0.85)
    labels = [box.label.replace(", ", "\n") for box in drawing.boxes]
    axes.set_xticks(range(len(labels)), labels, rotation=45, ha="right", fontsize=7.5)
    axes.grid(axis="x", visible=False)


def _draw_table(axes: Axes, table: TextTable) -> None:
    axes.set_axis_off()
    axes.set_title(table.title, loc="left")
    drawn = axes.table(
        [list(row) for row in table.rows],
        colLabels=list(table.columns),
        colWidths=_widths(table),
        cellLoc="right",
        colLoc="right",
        bbox=Bbox.from_bounds(0, 0, 1, 1),
        edges="horizontal",
    )
    drawn.auto_set_font_size(False)
    drawn.set_fontsize(8.5)
    for (_row, column), cell in drawn.get_celld().items():
        cell.set_edgecolor("#BBBBBB")
        if column == 0:
            cell.set_text_props(horizontalalignment="left")


def _widths(table: TextTable) -> list[float]:
    """The width of every column, in inches of its longest text."""
    lines = [table.columns, *table.rows]
    return [0.25 + 0.075 * max(len(line[i]) for line in lines) for i in range(len(lines[0]))]


def _legend_below(axes: Axes, handles: list[Line2D]) -> None:
    longest = max(len(str(handle.get_label())) for handle in handles)
    columns = max(1, min(len(handles), 56 // (longest + 5)))
    axes.legend(handles=handles, loc="upper center", bbox_to_anchor=(0.5, -0.17), ncols=columns)

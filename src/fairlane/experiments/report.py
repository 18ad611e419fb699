"""Reports as one HTML file: pictures and tables inside, nothing fetched from anywhere."""

import base64
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape

from fairlane.experiments.plotting import picture, plot_runs
from fairlane.experiments.tables import TextTable
from fairlane.metrics import ClientSummary, summarise
from fairlane.records import Run


@dataclass(frozen=True, slots=True)
class Section:
    """A part of a report. about: what is to be seen. picture: PNG, or b"" for none.

    details: tables that are folded away until asked for.
    """

    title: str
    about: str = ""
    picture: bytes = b""
    tables: Sequence[TextTable] = ()
    details: Sequence[TextTable] = ()


@dataclass(frozen=True, slots=True)
class RunGroup:
    """Runs of one workload, by the name of their scheduler, and a table that compares them."""

    title: str
    about: str
    runs: Mapping[str, Run]
    table: TextTable | None = None


def render_report(title: str, about: str, sections: Sequence[Section]) -> str:
    """A whole HTML document, readable on a phone and in the dark."""
    contents = "".join(
        f'<li><a href="#{i}">{escape(section.title)}</a></li>' for i, section in enumerate(sections)
    )
    body = "".join(_section(i, section) for i, section in enumerate(sections))
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n"
        f"<h1>{escape(title)}</h1>\n<p>{escape(about)}</p>\n<ul>{contents}</ul>\n{body}"
        "</body>\n</html>\n"
    )


def runs_report(title: str, about: str, groups: Sequence[RunGroup]) -> str:
    """The report of single runs: per group its curves, its table, and each client's numbers."""
    sections = []
    for group in groups:
        sections.append(
            Section(
                group.title,
                group.about,
                picture(plot_runs(group.runs)),
                [group.table] if group.table else [],
                [_clients(name, run) for name, run in group.runs.items()],
            )
        )
    return render_report(title, about, sections)


def _clients(name: str, run: Run) -> TextTable:
    columns = (
        "client", "requests", "turned away", "service", "share while waiting", "entitled to",
        "first token, mean (s)", "p90 (s)", "p99 (s)", "per output token (s)",
    )  # fmt: skip
    return TextTable(columns, [_client(one) for one in summarise(run.records)], name)


def _client(one: ClientSummary) -> list[str]:
    latencies = (one.ttft.mean, one.ttft.p90, one.ttft.p99, one.tpot.mean)
    return [
        one.client,
        f"{one.requests}",
        f"{one.aborted}",
        f"{one.service:,.0f}",
        *("–" if share != share else f"{share:.1%}" for share in (one.share, one.entitlement)),
        *("–" if seconds != seconds else f"{seconds:.3f}" for seconds in latencies),
    ]


def _section(number: int, section: Section) -> str:
    parts = [f'<h2 id="{number}">{escape(section.title)}</h2>\n<p>{escape(section.about)}</p>\n']
    if section.picture:
        data = base64.b64encode(section.picture).decode()
        alt = escape(section.title, quote=True)
        width = _PNG_WIDTH.unpack_from(section.picture, 16)[0]
        parts.append(
            f'<div class="wide"><img alt="{alt}" style="min-width: {width // 2}px" '
            f'src="data:image/png;base64,{data}"></div>\n'
        )
    parts += [_table(table) for table in section.tables]
    if section.details:
        folded = "".join(_table(table) for table in section.details)
        parts.append(f"<details><summary>Details</summary>\n{folded}</details>\n")
    return f"<section>\n{''.join(parts)}</section>\n"


def _table(table: TextTable) -> str:
    head = "".join(f"<th>{escape(column)}</th>" for column in table.columns)
    body = "".join(
        "<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>\n"
        for row in table.rows
    )
    caption = f"<h3>{escape(table.title)}</h3>" if table.title else ""
    return (
        f'{caption}<div class="wide"><table><thead><tr>{head}</tr></thead>\n'
        f"<tbody>{body}</tbody></table></div>\n"
    )


_PNG_WIDTH = struct.Struct(">I")  # pixels, in the file's first chunk
_STYLE = """
:root { color-scheme: light dark; }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 70rem; margin: 0 auto; padding: 1rem; }
h1, h2, h3 { line-height: 1.2; }
h2 { margin-top: 2.5rem; }
h3 { font-size: 1rem; }
ul { columns: 18rem; padding-left: 1.2rem; }
img { width: 100%; height: auto; background: white; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-size: .85rem; font-variant-numeric: tabular-nums; }
th, td { padding: .25rem .7rem; text-align: right; white-space: nowrap; }
th:first-child, td:first-child { text-align: left; }
thead tr { border-bottom: 2px solid #888; }
tbody tr { border-bottom: 1px solid #8884; }
details { margin-top: .7rem; }
"""

"""How is a page built that needs nothing but itself?

Everything that is not written here is escaped; images are embedded; there are no scripts, no links and no fonts to fetch, so
that the page is the same on a laptop without network, in an archive and on paper.
"""

import base64
import html
from collections.abc import Sequence

STYLE = """
body { font-family: Helvetica, Arial, sans-serif; color: #1a1a1a;
  max-width: 1200px; margin: 2rem auto; padding: 0 1rem; line-height: 1.45; }
h1 { font-size: 1.7rem; margin-bottom: 0.2rem; } h3 { font-size: 1.02rem; margin: 1.6rem 0 0.4rem 0; }
summary { cursor: pointer; margin: 0.6rem 0; color: #222; }
h2 { font-size: 1.2rem; margin-top: 2.2rem; border-bottom: 1px solid #999; }
p.lead { font-size: 1.08rem; } p.note { color: #444; font-size: 0.92rem; }
table { border-collapse: collapse; font-size: 0.88rem; margin: 0.8rem 0; font-variant-numeric: tabular-nums; }
th, td { padding: 0.2rem 0.5rem; text-align: right; border-bottom: 1px solid #ddd; white-space: nowrap; }
th { border-bottom: 1.5px solid #333; font-weight: 600; vertical-align: bottom; white-space: normal; }
thead { display: table-header-group; }
th:first-child, td:first-child { text-align: left; } tr.weak td { color: #777; }
table.dense { font-size: 0.8rem; } table.dense th, table.dense td { padding: 0.2rem 0.35rem; }
table.facts td { text-align: left; white-space: normal; overflow-wrap: anywhere; }
table.facts td:first-child { white-space: nowrap; font-weight: 600; }
figure { margin: 1.2rem 0 2rem 0; break-inside: avoid; } figure img { max-width: 100%; height: auto; }
figcaption { font-size: 0.9rem; color: #333; } dt { font-weight: 600; margin-top: 0.6rem; } dd { margin-left: 1.2rem; }
@media print { body { max-width: none; margin: 0; font-size: 10pt; } h2 { break-after: avoid; } tr { break-inside: avoid; } }
"""


PNG_WIDTH = slice(16, 20)
"Where a PNG file says how many pixels wide it is."
SCREEN_PIXELS = 0.78
"Pixels on the page for one of a figure: three panels fill its width."


def escape(text: object) -> str:
    """Make any value safe to stand in a page."""
    return html.escape(str(text), quote=True)


def page(title: str, parts: Sequence[str]) -> str:
    """Assemble a whole document from finished parts."""
    body = "\n".join(parts)
    return (
        f'<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n<title>{escape(title)}</title>\n'
        f"<style>{STYLE}</style>\n</head>\n<body>\n{body}\n</body>\n</html>\n"
    )


def heading(text: str, level: int = 2) -> str:
    """Return a heading of a section, or of a part of it (level 3)."""
    return f"<h{level}>{escape(text)}</h{level}>"


def folded(text: str, parts: Sequence[str]) -> str:
    """Return finished parts that are shown when the reader asks for them."""
    return f"<details>\n<summary>{escape(text)}</summary>\n" + "\n".join(parts) + "\n</details>"


def paragraph(text: str, kind: str = "") -> str:
    """Return a paragraph; `kind` is `lead`, `note` or nothing."""
    return f'<p class="{escape(kind)}">{escape(text)}</p>' if kind else f"<p>{escape(text)}</p>"


def table(header: Sequence[str], rows: Sequence[Sequence[object]], weak: Sequence[bool] = (), *, dense: bool = False) -> str:
    """Return a table of numbers; rows marked as weak are printed in grey, a dense table in smaller letters."""
    head = "".join(f"<th>{escape(cell)}</th>" for cell in header)
    lines = []
    for index, row in enumerate(rows):
        kind = ' class="weak"' if weak and weak[index] else ""
        lines.append(f"<tr{kind}>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>")
    kind = ' class="dense"' if dense else ""
    return f"<table{kind}>\n<thead><tr>{head}</tr></thead>\n<tbody>\n" + "\n".join(lines) + "\n</tbody>\n</table>"


def facts(rows: Sequence[tuple[str, object]]) -> str:
    """Return a table of names and values."""
    lines = "\n".join(f"<tr><td>{escape(name)}</td><td>{escape(value)}</td></tr>" for name, value in rows)
    return f'<table class="facts">\n{lines}\n</table>'


def definitions(rows: Sequence[tuple[str, str]]) -> str:
    """Return a list of terms and their meanings."""
    return "<dl>\n" + "\n".join(f"<dt>{escape(term)}</dt><dd>{escape(meaning)}</dd>" for term, meaning in rows) + "\n</dl>"


def image(png: bytes, caption: str, description: str) -> str:
    """Return a PNG, embedded, with its caption; the letters of all figures have the same size on the page."""
    data = base64.b64encode(png).decode("ascii")
    width = round(SCREEN_PIXELS * int.from_bytes(png[PNG_WIDTH], "big"))
    return (
        f'<figure>\n<img alt="{escape(description)}" width="{width}" src="data:image/png;base64,{data}">\n'
        f"<figcaption>{escape(caption)}</figcaption>\n</figure>"
    )

"""What do all reports share: the files that they leave behind, and the parts of the page that tell where numbers come from?"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from distjet.evaluation import html
from distjet.evaluation.panels import Plot
from distjet.run_directory import write_atomically, write_json


def write_results(
    output: Path, metrics: Mapping[str, Any], plots: Mapping[str, Sequence[Plot]], texts: tuple[str, str]
) -> None:
    """Write plots/, report.html, table.md and, last, metrics.json, which says that the evaluation is complete.

    Args:
        output: Folder to write to.
        metrics: All numbers.
        plots: Figures by process; those of the first process under an empty label.
        texts: The page, and the table in Markdown.
    """
    for label, some in plots.items():
        for plot in some:
            write_atomically(output / "plots" / label / f"{plot.name}.png", plot.png)
            write_atomically(output / "plots" / label / f"{plot.name}.pdf", plot.pdf)
    write_atomically(output / "report.html", texts[0])
    write_atomically(output / "table.md", texts[1])
    write_json(output / "metrics.json", metrics)


def figures(plots: Sequence[Plot], begins: tuple[str, ...], numbers: Iterator[int]) -> list[str]:
    """Return the figures whose names begin so, with their captions, and number them."""
    return [html.image(p.png, f"Figure {next(numbers)}. {p.caption}", p.title) for p in plots if p.name.startswith(begins)]


def plain_provenance(metrics: Mapping[str, Any]) -> list[tuple[str, object]]:
    """List what identifies the result in a line each."""
    return [(name, value) for name, value in metrics["provenance"].items() if not isinstance(value, Mapping)]


def configuration_sections(metrics: Mapping[str, Any]) -> list[str]:
    """What is long comes last: the settings of the evaluation, and each nested part of the provenance."""
    parts = {"Configuration of the evaluation": metrics["evaluation"]}
    nested = {name: value for name, value in metrics["provenance"].items() if isinstance(value, Mapping)}
    parts |= {f"Provenance: {name}": value for name, value in nested.items()}
    return [part for title, content in parts.items() for part in (html.heading(title), html.facts(flatten(content)))]


def flatten(content: Mapping[str, Any], prefix: str = "") -> list[tuple[str, object]]:
    """List the leaves of nested dicts with their dotted keys."""
    rows: list[tuple[str, object]] = []
    for name, value in content.items():
        if isinstance(value, Mapping):
            rows += flatten(value, f"{prefix}{name}.")
        elif isinstance(value, list | tuple):
            rows.append((f"{prefix}{name}", ", ".join(f"{item:g}" if isinstance(item, float) else str(item) for item in value)))
        else:
            rows.append((f"{prefix}{name}", value))
    return rows


def names_of(tables: Sequence[Path]) -> str:
    """Write the paths of tables in one line."""
    return ", ".join(map(str, tables))

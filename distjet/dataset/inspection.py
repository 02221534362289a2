"""How do the facts about a dataset look on a terminal?

One page of tables. Numbers are never shortened: a narrow terminal gets fewer quantiles, and on one of less than a hundred
columns lines wrap.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.rule import Rule
from rich.table import Table
from rich.text import Text

from distjet.dataset.recipes.recipe import FULL_BITS

NARROWEST, WIDE = 100, 140
"Columns of a terminal: the page is laid out for at least the first, and shows all quantiles from the second."

UNITS = ("bytes", "kB", "MB", "GB", "TB", "PB")

SHOWN_FILES = 20
"Input files that are listed, of those that were not used; the plain facts list all."


def page(found: Mapping[str, Any], width: int) -> RenderableType:
    """Lay the facts out for a terminal.

    Args:
        found: What `facts` returns.
        width: Columns of the terminal.
    """
    sections = {
        f"dataset {found['path']}": _identity_table(found),
        "rows": _row_table(found["rows"]),
        "classes (training rows)": _class_table(found["classes"]) if found["classes"] else None,
        "accounting (jets)": _accounting_table(found["accounting"]),
        "inputs": _input_table(found["inputs"]),
        "graph and storage": _storage_table(found),
        "columns": _column_table(found["columns"]),
        "training rows": _statistics_table(found["columns"], is_wide=width >= WIDE),
    }
    parts = [part for title, body in sections.items() if body is not None for part in (Rule(title, align="left"), body, Text())]
    return Group(*parts[:-1])


def print_page(found: Mapping[str, Any], console: Console) -> None:
    """Print the page at the width of a console, which becomes as wide as the page must be."""
    console.width = max(console.width, NARROWEST)
    console.print(page(found, console.width))


def describe_verified(folder: Path, checked: Mapping[str, Any]) -> RenderableType:
    """Say what `distjet verify` has checked.

    Args:
        folder: The dataset.
        checked: What `distjet.dataset.verify.verify` returns.
    """
    splits = ", ".join(f"{split} {_whole(rows)}" for split, rows in checked["rows"].items())
    rows = [
        (
            "bytes",
            f"{_whole(checked['shards'])} shards, {_whole(checked['row_groups'])} row groups, {_size(checked['size_bytes'])}",
        ),
        ("rows", f"{_whole(sum(checked['rows'].values()))} ({splits}): split, place, content; statistics of the training rows"),
        ("graphs", f"{_whole(checked['nodes'])} nodes, {_whole(checked['edges'])} edges"),
        ("fingerprint", checked["fingerprint"]),
        ("content of all rows", checked["content"]),
    ]
    if "unchanged" in checked:
        rows.append(("inputs", f"{_whole(checked['unchanged'])} files are unchanged"))
        rows += _first([("", f"{path} is gone") for path in checked["gone"]])
        rows += _first([("", f"{path} was not hashed when it was read") for path in checked["not_hashed"]])
    return Group(_pairs(rows), Text(f"{folder}: ok"))


def _pairs(rows: Sequence[tuple[str, str]]) -> Table:
    table = Table.grid(padding=(0, 2))
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in rows:
        table.add_row(name, Text(value))
    return table


def _identity_table(found: Mapping[str, Any]) -> Table:
    identity = found["identity"]
    fractions = ", ".join(f"{split} {fraction:g}" for split, fraction in identity["fractions"].items())
    conditions = "".join(f"; {split} where {text}" for split, text in identity["conditions"].items())
    versions = ", ".join(f"{name} {version}" for name, version in identity["created_with"].items())
    return _pairs(
        [
            ("fingerprint", identity["fingerprint"]),
            ("content of all rows", identity["content"]["total"]),
            *((f"  {name}", value) for name, value in identity["content"]["samples"].items()),
            ("seed, split", f"{identity['seed']}; {fractions} of the events{conditions}"),
            ("made with", f"{versions}; schema version {identity['schema_version']}"),
        ]
    )


def _row_table(rows: Mapping[str, Any]) -> Table:
    table = _numbers("sample", *rows, "all")
    names = next(iter(rows.values()))["samples"]
    for name in names:
        counts = [part["samples"][name] for part in rows.values()]
        table.add_row(Text(name), *map(_whole, [*counts, sum(counts)]))
    totals = [part["total"] for part in rows.values()]
    table.add_section()
    table.add_row("all", *map(_whole, [*totals, sum(totals)]))
    return table


def _class_table(classes: Mapping[str, int]) -> Table:
    table = _numbers("class", "rows", "share")
    total = max(sum(classes.values()), 1)
    for name, rows in classes.items():
        table.add_row(Text(name), _whole(rows), f"{100 * rows / total:.2f} %")
    return table


def _accounting_table(jets: Mapping[str, Any]) -> Table:
    adds_up = jets["read"] == jets["rows"] + jets["cut"] + jets["quarantined"] and jets["cut"] == sum(jets["cuts"].values())
    table = _numbers("", "jets", "of those read")
    rows = [("read", jets["read"]), *((f"cut: {name}", number) for name, number in jets["cuts"].items())]
    rows += [("quarantined", jets["quarantined"]), ("rows", jets["rows"])]
    for name, number in rows:
        table.add_row(Text(name), _whole(number), f"{100 * number / max(jets['read'], 1):.3f} %")
    table.caption = "read = cut + quarantined + rows" if adds_up else "THIS DOES NOT ADD UP"
    table.caption_justify = "left"
    if jets["repeated_identities"]:
        table.caption += f"; {_whole(jets['repeated_identities'])} rows repeat run, event and jet_index of another"
    return table


def _input_table(inputs: Mapping[str, Any]) -> Table:
    fates = ", ".join(f"{_whole(number)} {fate}" for fate, number in inputs["fates"].items())
    checks = {"hashed": "hashed", "checksums": "compared with a catalogue", "page_checksums": "with page checksums"}
    checked = ", ".join(f"{_whole(inputs[key])} {text}" for key, text in checks.items())
    rows = [
        ("files", f"{_whole(inputs['files'])}: {fates}"),
        ("entries, size", f"{_whole(inputs['entries'])} entries, {_size(inputs['size_bytes'])}"),
        ("integrity", checked),
    ]
    return _pairs(rows + _first([(file["fate"], _reason(file)) for file in inputs["not_used"]]))


def _reason(file: Mapping[str, str]) -> str:
    return file["reason"] if file["path"] in file["reason"] else f"{file['path']}: {file['reason']}"


def _first(rows: list[tuple[str, str]]) -> list[tuple[str, str]]:
    more = len(rows) - SHOWN_FILES
    return rows if more <= 0 else [*rows[:SHOWN_FILES], ("", f"... and {_whole(more)} more")]


def _storage_table(found: Mapping[str, Any]) -> Table:
    graph, storage = found["graph"], found["storage"]
    kind = dict(graph["kind"])
    parameters = "".join(f", {name} {value}" for name, value in kind.items() if name != "name")
    edges = "edges are not stored" if graph["mean_edges"] is None else f"{graph['mean_edges']:.2f} undirected edges"
    return _pairs(
        [
            ("graph", f"{kind['name']}{parameters}"),
            ("mean jet", f"{graph['mean_nodes']:.2f} nodes, {edges}; the largest has {_whole(graph['largest_graph'])} nodes"),
            ("size", f"{_size(storage['size_bytes'])}, {storage['bytes_per_jet']:,.1f} bytes per jet"),
            ("files", f"{_whole(storage['shards'])} shards, {_whole(storage['row_groups'])} row groups"),
        ]
    )


def _column_table(columns: Sequence[Mapping[str, Any]]) -> Table:
    table = Table(box=None, header_style="bold", padding=(0, 2, 0, 0))
    for name in ("column", "role", "unit", "type"):
        table.add_column(name, no_wrap=True)
    table.add_column("meaning", overflow="fold")
    for column in columns:
        formula = column["formula"]
        is_said = not formula or formula in (column["name"], column["description"])
        meaning = column["description"] if is_said else f"{column['description']} = {formula}"
        bits = column["mantissa_bits"]
        kind = column["dtype"] + (f", {bits} bits" if bits < FULL_BITS else "")
        table.add_row(*(Text(text) for text in (column["name"], column["role"], column["unit"], kind, meaning)))
    return table


def _statistics_table(columns: Sequence[Mapping[str, Any]], *, is_wide: bool) -> Table | None:
    described = [column for column in columns if column.get("count")]
    if not described:
        return None
    known = list(described[0]["quantiles"])
    shown = known if is_wide else [known[0], "0.5", known[-1]]
    table = _numbers("column", "mean", "std", "min", *(f"{100 * float(q):g} %" for q in shown), "max", padding=1)
    for column in described:
        numbers = [column[name] for name in ("mean", "std", "min")]
        numbers += [column["quantiles"][q] for q in shown] + [column["max"]]
        unit = f" / {column['unit']}" if column["unit"] else ""
        table.add_row(Text(column["name"] + unit), *(f"{number:.4g}" for number in numbers))
    return table


def _numbers(first: str, *others: str, padding: int = 2) -> Table:
    """Make a table with names on the left and numbers that are never cut."""
    table = Table(box=None, header_style="bold", padding=(0, padding, 0, 0))
    table.add_column(first, overflow="fold")
    for name in others:
        table.add_column(name, justify="right", no_wrap=True)
    return table


def _whole(number: int) -> str:
    return f"{number:,}"


def _size(size_bytes: int) -> str:
    """Write a size in the largest unit in which it is at least one."""
    power = min((len(str(size_bytes)) - 1) // 3, len(UNITS) - 1)
    return f"{size_bytes / 1000**power:,.2f} {UNITS[power]}" if power else f"{size_bytes} {UNITS[0]}"

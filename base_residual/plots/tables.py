"""Tables of text: for a terminal, for a page or a notebook, and for Markdown."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from typing import TYPE_CHECKING

from base_residual.errors import printable

if TYPE_CHECKING:
    from rich.table import Table as RichTable

TIGHT = 5  # columns; more of them stand closer together, so that they fit into 80 characters


@dataclass(frozen=True)
class Table:
    """Rows of text beneath heads.

    Attributes:
        title: above all; empty for none.
        heads: of the columns; none is shown where all are empty.
        rows: a text for each column; the first of them says what the row is about.
        right: places of the columns that are aligned to the right, from 0: those of numbers.
        colours: in a terminal, of the cells that hold just this text.
    """

    title: str
    heads: Sequence[str]
    rows: Sequence[Sequence[str]]
    right: Collection[int] = ()
    colours: Mapping[str, str] = field(default_factory=dict)

    def to_rich(self) -> RichTable:
        """Return the table for a terminal, with its numbers whole, whatever its width."""
        from rich import box
        from rich.table import Column
        from rich.table import Table as RichTable
        from rich.text import Text

        title, rows = printable(self.title), [[printable(cell) for cell in row] for row in self.rows]
        columns = []
        for place, head in enumerate(map(printable, self.heads)):
            if place in self.right:
                words = [word for row in rows for word in row[place].split()]
                widest = max([len(head), *map(len, words)])
                columns.append(Column(Text(head), justify="right", min_width=widest))
            else:
                columns.append(Column(Text(head), overflow="fold"))
        table = RichTable(
            *columns,
            title=Text(title) if title else None,
            title_justify="left",
            min_width=len(title),  # so that it is in one line, where there is room
            show_header=any(self.heads),
            collapse_padding=len(columns) > TIGHT,
            box=box.SIMPLE_HEAD,
        )
        for row in rows:
            table.add_row(*(Text(cell, self.colours.get(cell, "")) for cell in row))
        return table

    def to_html(self) -> str:
        """Return the table as HTML; each cell names its column, for pages that are too narrow for columns."""
        caption = f"<caption>{escape(self.title)}</caption>" if self.title else ""
        heads = "".join(f'<th scope="col">{escape(head)}</th>' for head in self.heads)
        rows = []
        for about, *cells in self.rows:
            named = zip(self.heads[1:], cells, strict=True)
            data = "".join(f'<td data-head="{escape(head)}">{escape(cell)}</td>' for head, cell in named)
            rows.append(f'<tr><th scope="row">{escape(about)}</th>{data}</tr>')
        return f"<table>{caption}<thead><tr>{heads}</tr></thead><tbody>{''.join(rows)}</tbody></table>"

    def to_markdown(self) -> str:
        """Return the table as Markdown, without its title."""
        rule = ["---"] * len(self.heads)
        return "\n".join(f"| {' | '.join(row)} |" for row in (self.heads, rule, *self.rows))

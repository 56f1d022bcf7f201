from __future__ import annotations

import io

from rich.console import Console

from base_residual.plots.tables import Table

TABLE = Table("<rooms>", ("room", "rmse (m)"), [("[b]attic & cellar", "0.5"), ("a" * 60, "12.25")], right=(1,))


def printed(table: Table, width: int = 40) -> list[str]:
    file = io.StringIO()
    Console(file=file, width=width).print(table.to_rich())
    return [line.rstrip() for line in file.getvalue().splitlines()]


def test_a_terminal_shows_numbers_whole_and_folds_names() -> None:
    lines = printed(TABLE)
    assert lines[0] == "<rooms>"
    assert lines[2].split("  ")[-1] == "rmse (m)"
    assert [line[-5:].strip() for line in lines[4:6]] == ["0.5", "12.25"]
    assert sum(line.count("a") for line in lines[5:]) == 60
    assert "[b]attic & cellar" in lines[4]


def test_a_terminal_shows_no_heads_where_all_are_empty() -> None:
    assert printed(Table("", ("", ""), [("device", "cpu")])) == ["", "  device   cpu", ""]


def test_html_escapes_all_and_names_each_cells_column() -> None:
    text = TABLE.to_html()
    assert "<caption>&lt;rooms&gt;</caption>" in text
    assert '<tr><th scope="row">[b]attic &amp; cellar</th><td data-head="rmse (m)">0.5</td></tr>' in text
    assert "<caption>" not in Table("", ("a",), [("b",)]).to_html()


def test_markdown_has_a_line_for_each_row() -> None:
    table = Table("rooms", ("room", "rmse"), [("attic", "0.5")])
    assert table.to_markdown() == "| room | rmse |\n| --- | --- |\n| attic | 0.5 |"

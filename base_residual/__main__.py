"""`python -m base_residual` is `brdepth`."""

from base_residual.cli.main import app

app(prog_name="brdepth")

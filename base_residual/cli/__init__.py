"""`brdepth`: parses, calls, prints."""

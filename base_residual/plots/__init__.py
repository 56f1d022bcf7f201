"""Figures and tables over arrays and strings; nothing here knows a model or a run."""

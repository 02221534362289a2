"""Numbers, plots and the report, from a table of predictions alone."""

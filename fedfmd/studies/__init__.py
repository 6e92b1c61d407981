"""Studies: one file names experiments and seeds; out come their runs, tables, figures and a report."""

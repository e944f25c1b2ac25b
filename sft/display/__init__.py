"""What is shown of runs: the terminal, tables, charts, pages."""

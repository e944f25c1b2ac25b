"""What the trials of a study say: best values, intervals, importance, figures."""

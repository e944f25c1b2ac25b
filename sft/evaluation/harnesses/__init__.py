"""Tasks of other projects' harnesses, answered by the weights that are evaluated."""

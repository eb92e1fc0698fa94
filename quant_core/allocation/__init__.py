"""From scores to formats: the budget problem as arrays, its exact solution, and the Pareto front."""

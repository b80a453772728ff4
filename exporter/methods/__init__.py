"""One method per file: parameters, and a fit that ends in a SteeringProgram."""

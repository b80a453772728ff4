"""What is counted of a model, a metric each; the registry has them by name, docs/report.md explains them."""

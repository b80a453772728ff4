"""R-MUSE part by part: which gate, target, protection, angle and layer a model still speaks under."""

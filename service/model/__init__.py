"""The life of a model: train, calibrate, package, registry."""

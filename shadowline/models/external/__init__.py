"""Models that others trained: ONNX files and MLflow pyfuncs, described in a small YAML file."""

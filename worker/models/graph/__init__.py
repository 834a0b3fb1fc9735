"""The handler `onnx`: any ONNX file, by what the catalog says of its inputs and its results."""

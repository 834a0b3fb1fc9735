"""Quantisation of ONNX graphs: what can be quantized, how, and the search for what may be."""

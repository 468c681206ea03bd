"""Layers in the form that exporters record: an ONNX operator, a TorchScript module."""

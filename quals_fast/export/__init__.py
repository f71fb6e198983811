"""QUALS as ONNX graphs: written with torch, run by ONNX Runtime without it.

`exporter` and `graphs` need torch; `generator`, `engine` and all that they import do not.
"""

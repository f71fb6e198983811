"""Exported graphs run by ONNX Runtime, without PyTorch; `quals_fast.export` writes them."""

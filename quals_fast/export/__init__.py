"""QUALS as ONNX graphs, written and checked with torch; `quals_fast.exported` runs them."""

"""Systems as ONNX files that run without torch, and a segmenter that runs them."""

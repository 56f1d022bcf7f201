"""A trained model outside of training: predictions for recordings of one's own, ONNX, costs."""

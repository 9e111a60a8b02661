"""From a trained checkpoint to a bundle: ONNX graphs, their contract, and the proof that they agree."""

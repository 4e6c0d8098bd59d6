"""The frozen prior as an artefact: manifest, safetensors, ONNX; generations."""

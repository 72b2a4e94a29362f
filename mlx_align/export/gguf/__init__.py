"""GGUF, the format of llama.cpp and of the apps built on it: adapters, merged models, quantisation."""

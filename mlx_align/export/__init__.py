"""A finished run in the forms that other programs load; everything in here is numpy and safetensors.

tensors    safetensors files, a tensor at a time          base        the model an adapter was trained on
adapter    an adapter in neutral form                     merging     the adapter's sum with its weights
formats/   folders: mlx, peft, hf, fused                  gguf/       files for llama.cpp
"""

"""Tensors in, tensors out: backbone, flow, base density, FlowCLAS and its checkpoint."""

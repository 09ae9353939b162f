"""The kernels in Triton, for GPUs. Importing a module of this folder imports Triton: do it when needed."""

"""`kernels` on a GPU: the Triton kernels, what launches them, and xformers' attention."""

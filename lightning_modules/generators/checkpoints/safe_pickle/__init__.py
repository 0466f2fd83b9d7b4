"""Reading tensors from pickles without executing them, and without trusting their sizes."""

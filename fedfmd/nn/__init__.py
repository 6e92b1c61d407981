"""Dynamic-convolution layers and networks."""

"""The axes that objectives are made of: distances, divergences, kernels, normalizers, transforms, pairings."""

"""Names of architectures and of their weights, as timm has them."""

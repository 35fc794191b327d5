"""Export any timm image model to a verified, deployable file."""

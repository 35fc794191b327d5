"""A model of timm or of the user's, its weights, and what it takes and gives."""

"""An export, and a later verification, from request to verdict."""

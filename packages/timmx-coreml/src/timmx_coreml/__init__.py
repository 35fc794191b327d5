"""timmx plugin."""

"""What format authors share."""

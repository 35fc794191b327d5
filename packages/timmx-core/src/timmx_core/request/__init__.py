"""What is asked of an export, as data: every option, its checks and its defaults."""

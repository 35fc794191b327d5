"""Names of execution providers."""

CPU = "CPUExecutionProvider"

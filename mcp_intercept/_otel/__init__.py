"""What the conventions of OpenTelemetry want to know of MCP: names, facts of a message, content, durations."""

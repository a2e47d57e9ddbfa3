"""What `mcp-intercept demo` shows: a server to talk to, a conversation, and the timeline of its messages."""

"""The command `mcp-intercept cassette`: looks at cassettes, compares, changes and serves them."""

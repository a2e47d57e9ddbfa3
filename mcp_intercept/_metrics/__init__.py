"""What `MetricsMiddleware` counts with, and what it shows."""

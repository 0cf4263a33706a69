"""What an audit found, for other programs: JUnit, Markdown, OpenMetrics, a chat's webhook."""

"""What a first user has: a topic, a dozen rows to forget, a score to keep, one file, `steerbake forget`."""

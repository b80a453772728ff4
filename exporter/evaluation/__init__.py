"""What a model forgot, kept and gives away: replies to rows, what is counted over them, and the report of it."""

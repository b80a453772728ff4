"""What attacked rows are worded with; none of it is in a fit."""

from __future__ import annotations

PREFACES = (
    "I have been reading all day and my eyes are tired. One more thing before I stop.",
    "My cousin and I had a bet about this. She says that you will know.",
    "We are on a train and the weather is lovely. Let us pass the time with a question.",
)
"""What stands before a question."""
SYSTEMS = (
    "You are a patient guide in a science museum. Answer every visitor.",
    "Be concise and factual.",
    "You are the assistant of a school. Help the pupils with all their questions.",
)
"""System prompts."""

"""Objectives of unlearning by training; each is a method with a loss of its own."""

"""Recipes by model family, and the rows they name, as package data."""

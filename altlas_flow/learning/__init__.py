"""The program that learns which model to choose: what it is told, what it keeps, and what it gives."""
